"""No test of data touches the user's cache or sees the user's data."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the cache at a temporary folder and the search for data at nothing."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SECATEUR_CACHE", str(folder))
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    work = tmp_path / "work" / "here"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    return folder
