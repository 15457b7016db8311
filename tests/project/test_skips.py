"""Under CI=true a skip fails; elsewhere it tells its reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
PLANTED = {
    "a skip": "import pytest\ndef test_it(): pytest.skip('no camera')",
    "a mark": "import pytest\n@pytest.mark.skipif(True, reason='no camera')\ndef test_it(): pass",
    "an import": "import pytest\npytest.importorskip('no_such_camera', reason='no camera')\ndef test_it(): pass",
    "a module": "import pytest\npytest.skip('no camera', allow_module_level=True)",
}


def run(folder: Path, source: str, ci: str) -> subprocess.CompletedProcess:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_planted.py").write_text(source)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"CI": ci}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "."],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("planted", PLANTED)
def test_a_skip_fails_in_ci_only(planted, tmp_path):
    in_ci, at_home = run(tmp_path, PLANTED[planted], "true"), run(tmp_path, PLANTED[planted], "")
    assert in_ci.returncode != 0 and "no camera" in in_ci.stdout, in_ci.stdout
    assert "failed" not in at_home.stdout and "no camera" in at_home.stdout, at_home.stdout


def test_an_expected_failure_stays_one(tmp_path):
    source = "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_it(): assert False"
    assert run(tmp_path, source, "true").returncode == 0
