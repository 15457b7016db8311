"""What all tests share: the shared folder, and skips that count as failures where nothing may be missing."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ANOMALIB_NB_SHARED", ROOT.parent / "shared"))


def strict() -> bool:
    return os.environ.get("CI", "").lower() == "true"


def fail_if_skipped(report):
    "Under CI=true a skip is a failure with the same reason; an expected failure stays one."
    if strict() and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\n(CI has everything: a skip is a failure there)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return fail_if_skipped((yield))


@pytest.fixture(scope="session")
def shared() -> Path:
    "The folder with fixtures, real images and weights that stands beside the checkout."
    if not SHARED.is_dir():
        pytest.skip(f"there is no {SHARED}; set ANOMALIB_NB_SHARED")
    return SHARED
