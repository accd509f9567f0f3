"""`python -m tests.containers`: build the image and run the pipeline in it; see `checks.py`.

SECATEUR_CONTAINERS_FOLDER names a folder to keep between runs, with the engine's images; without it everything is
removed in the end. Further arguments go to pytest (`-k control`).
"""

import signal
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = ["-s", "-v", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    sys.exit(pytest.main([str(Path(__file__).with_name("checks.py")), *options, *sys.argv[1:]]))
