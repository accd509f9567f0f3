"""Where the tests find the large data sets that are not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_data() -> Path:
    """Return the folder of shared data: SECATEUR_SHARED, else `../shared/data` beside the repository.

    Skips the calling test, with the path that was looked at, when there is none.
    """
    folder = Path(os.environ.get("SECATEUR_SHARED") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        reason = f"no shared data in {folder}: set SECATEUR_SHARED to the folder that holds cifar10.npz and its like"
        print(reason)
        pytest.skip(reason)
    return folder
