"""Long transfers say how far they are, every now and then; short ones say nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.core import progress


@contextmanager
def telling(what: str, folder: Path, *, is_growing: bool = False) -> Iterator[None]:
    """Print a line every few seconds while the block runs.

    Args:
        what: Said in front ("upload train-0123…").
        folder: What is sent, or where it arrives.
        is_growing: Whether the folder's size is what arrived until now; otherwise it is what is to be sent.
    """
    start, stop = time.monotonic(), threading.Event()

    def tell() -> None:
        while not stop.wait(progress.LOG_INTERVAL_S):
            amount = f"{size_bytes(folder) / 1e6:.1f} MB{' so far' if is_growing else ''}"
            print(f"{what}: {amount}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def size_bytes(folder: Path) -> int:
    """Return how many bytes the files of a folder have; one that goes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
