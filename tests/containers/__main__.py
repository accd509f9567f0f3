"""`python -m tests.containers`: build the image and run the pipeline in it; see `checks.py`.

SECATEUR_CONTAINERS_FOLDER names a folder to keep between runs, with the engine's images; without it everything is
removed in the end. Further arguments go to pytest (`-k control`).
"""

import signal
import sys
from pathlib import Path

import pytest


class Counted:
    """Counts what passed: a run in which everything was skipped proves nothing."""

    num_passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.num_passed += report.when == "call" and report.passed


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = ["-s", "-v", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    counted = Counted()
    status = pytest.main([str(Path(__file__).with_name("checks.py")), *options, *sys.argv[1:]], plugins=[counted])
    if status == 0 and not counted.num_passed:
        print("nothing was tested: the reasons are above", file=sys.stderr)
        status = 3
    sys.exit(status)
