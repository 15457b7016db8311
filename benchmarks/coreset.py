"""How fast is the coreset? Ours, the plain rule, and (where it is installed) anomalib's, on the same matrix.

    python benchmarks/coreset.py 50000x270:1000 20000x270:1000 --threads 2 --reference-python /path/to/python
    python benchmarks/coreset.py features.safetensors:22118

A size is POINTSxCOLUMNS:PICKS of normal noise, or a safetensors file with one (N, C) tensor and a number of picks.
All run one after another on one machine with the same number of threads; read the ratios, not the seconds.
The others are slow, and every pick of theirs costs the same: --plain-picks and --reference-picks time only so many
and the rest is their price. anomalib's time includes its random projection; ours and the plain rule take the matrix as it is.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from anomalib_nb.layers import greedy

REFERENCE = """
import sys, time, torch
from safetensors.torch import load_file
from anomalib.models.components.sampling import KCenterGreedy
torch.set_num_threads(int(sys.argv[3]))
x, count = load_file(sys.argv[1])["x"], int(sys.argv[2])
warm = KCenterGreedy(x[:2000], 0.01); warm.select_coreset_idxs()
seconds = []
for n in (2, count):
    sampler = KCenterGreedy(x, (n + 0.5) / len(x))
    begun = time.perf_counter()
    sampler.select_coreset_idxs()
    seconds.append(time.perf_counter() - begun)
print(*seconds)
"""


def plain(x, count):
    picks, m = [0], torch.full((len(x),), torch.inf)
    while len(picks) < count:
        m = torch.minimum(m, (x - x[picks[-1]]).norm(dim=1))
        picks.append(int(m.argmax()))
    return torch.tensor(picks)


def timed(function):
    begun = time.perf_counter()
    return function(), time.perf_counter() - begun


def reference(python, x, count, threads):
    with tempfile.TemporaryDirectory() as folder:
        save_file({"x": x}, f"{folder}/x.safetensors")
        command = [
            python,
            "-W",
            "ignore",
            "-c",
            REFERENCE,
            f"{folder}/x.safetensors",
            str(count),
            str(threads),
        ]
        shown = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    few, many = map(float, shown.stdout.split()[-2:])
    return few, (many - few) / (count - 2)  # its projection and two picks; each further pick


def matrix(size):
    source, count = size.rsplit(":", 1)
    if Path(source).is_file():
        return next(iter(load_file(source).values())).float().contiguous(), int(count)
    n, c = map(int, source.split("x"))
    return torch.randn(n, c, generator=torch.Generator().manual_seed(0)), int(count)


def measure(size, options):
    x, count = matrix(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours, seconds = timed(lambda: greedy(x, count))
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    row = {
        "points": len(x),
        "columns": x.shape[1],
        "picks": count,
        "ours s": f"{seconds:.2f}",
        "extra MB": f"{extra:.0f}",
        "computed": f"{ours.measured / len(x) / count:.0%}",
    }
    if options.plain_picks:
        part = min(count, options.plain_picks)
        picks, other = timed(lambda: plain(x, part))
        same = (picks == ours.picked[:part].cpu()).float().mean()
        row |= {
            "plain s": f"{other * count / part:.1f}",
            "plain/ours": f"{other * count / part / seconds:.1f}",
            "same": f"{same:.1%}",
        }
    if options.reference_python:
        few, each = reference(
            options.reference_python, x, min(count, options.reference_picks), options.threads
        )
        other = few + each * (count - 2)
        row |= {"anomalib s": f"{other:.1f}", "anomalib/ours": f"{other / seconds:.1f}"}
    return row


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", default=["50000x270:1000"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--plain-picks", type=int, default=100, help="0: leave the plain rule out")
    parser.add_argument("--reference-python", help="a Python that has anomalib")
    parser.add_argument("--reference-picks", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    greedy(torch.randn(1000, 8), 10)
    rows = [measure(size, options) for size in options.sizes]
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    sys.exit(main())
