#!/usr/bin/env python3
"""What an import costs: seconds in a fresh process, the best of some rounds, all statements in turn.

    python benchmarks/imports.py [--rounds 5] [--reference-python PYTHON]

`--reference-python` is a Python that has anomalib 2.7.
"""

import argparse
import subprocess
import sys

OURS = {
    "pass": "an empty Python",
    "import anomalib_nb": "ours, lazily",
    "import torch, lightning, timm": "what a model needs",
    "from anomalib_nb.models import PatchCore": "ours",
}
THEIRS = {"from anomalib.models import Patchcore": "anomalib 2.7"}
TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def seconds(python: str, statement: str) -> float:
    "How long a statement takes in a fresh process."
    done = subprocess.run(
        [python, "-c", TIMED.format(statement)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    "Parse, measure, print the table."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reference-python", default="")
    a = parser.parse_args()
    jobs = [(sys.executable, s, what) for s, what in OURS.items()]
    jobs += [(a.reference_python, s, what) for s, what in THEIRS.items() if a.reference_python]
    best = {s: float("inf") for _, s, _ in jobs}
    for _ in range(a.rounds):
        for python, statement, _ in jobs:
            best[statement] = min(best[statement], seconds(python, statement))
    print("| statement | what | seconds |\n|---|---|---:|")
    for _, statement, what in jobs:
        print(f"| `{statement}` | {what} | {best[statement]:.3f} |")
    need, ours = (
        best["import torch, lightning, timm"],
        best["from anomalib_nb.models import PatchCore"],
    )
    print(f"\nPatchCore / (torch, lightning, timm) = {ours / need:.2f}")


if __name__ == "__main__":
    main()
