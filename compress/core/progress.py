"""Progress of long work: a bar with an estimate on a terminal, sparse lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two lines in a log.
LOG_INTERVAL_S = 15.0


def track(items: Iterable[T], *, total: int, what: str, note: list[str] | None = None) -> Iterator[T]:
    """Yield `items` while showing how many of `total` are done and how long the rest may take.

    Args:
        items: What to go through.
        total: How many there are.
        what: Short name of the work, shown in front.
        note: A one-element list that the caller may rewrite; shown behind ("loss 0.31").
    """
    if sys.stderr.isatty():
        yield from _bar(items, total=total, what=what, note=note)
    else:
        yield from _lines(items, total=total, what=what, note=note)


def _bar(items: Iterable[T], *, total: int, what: str, note: list[str] | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, note="")
        for item in items:
            yield item
            progress.update(task, advance=1, note=note[0] if note else "")


def _lines(items: Iterable[T], *, total: int, what: str, note: list[str] | None) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_INTERVAL_S or done == total:
            left_s = (now - start) / done * (total - done)
            tail = f", {note[0]}" if note and note[0] else ""
            print(f"{what}: {done}/{total}, {now - start:.0f} s, about {left_s:.0f} s left{tail}", file=sys.stderr)
            last = now
