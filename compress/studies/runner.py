"""Runs a study's cells one after the other; each finished one is kept at once, so that any interruption is cheap."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType
from typing import Any

from compress.core.layout import write_json
from compress.core.machine import machine, versions
from compress.core.registry import UnknownName
from compress.studies.finder import FoundStudy
from compress.studies.study import Bench, Cell

#: Exit status of a run that left cells to do because its slice of time was over.
UNFINISHED = 75


class SliceOver(BaseException):
    """The slice of time is over. No Exception, so that nothing on the way takes it for a failure."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run came.

    Attributes:
        total: Number of cells of the preset.
        done: Labels of those that are measured, now or before.
        failed: Why, by label; they are tried again next time.
        is_slice_over: Whether the run stopped because its time was up.
    """

    total: int
    done: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    is_slice_over: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether every cell of the preset is measured."""
        return len(self.done) == self.total


def run_cells(
    found: FoundStudy, preset: str, workspace: Path, *, only: Sequence[str] = (), slice_s: float = 0.0
) -> Progress:
    """Measure the cells of a preset that are still missing.

    Args:
        found: The study.
        preset: Which of its presets.
        workspace: Folder for cells, stored models and checkpoints of all studies.
        only: Patterns of names ("taylor", "tp_*") or labels ("taylor@0"); without any, all cells.
        slice_s: Stop after so many seconds; 0 for no limit. The same call goes on from there.

    Raises:
        UnknownName: A pattern fits no cell.
        ValueError: Data is missing, or another run uses the workspace.
    """
    study, home = found.study, workspace / found.name
    cells, keys = study.cells(preset), study.keys(preset)
    wanted = [cell for cell in cells if _is_wanted(cell, only)]
    for pattern in only:
        if not any(_is_wanted(cell, [pattern]) for cell in cells):
            raise UnknownName.among("cell", pattern, {cell.name for cell in cells})
    data = {cell.label: dict(study.data(cell)) for cell in cells}
    found_there = {cell.label: read_cell(home, cell, keys[cell.label]) for cell in cells}
    known = valid({label: record for label, record in found_there.items() if record and record["data"] == data[label]})
    failed: dict[str, str] = {}
    is_over = False
    with _sole_user(home), _time_limit(slice_s):
        try:
            for number, cell in enumerate(wanted, 1):
                if cell.label not in known:
                    _say(f"{found.name} {preset}: {number}/{len(wanted)} {cell.label}")
                    _measure(found, cell, keys[cell.label], data[cell.label], home, known, failed)
        except SliceOver:
            is_over = True
    done = tuple(cell.label for cell in cells if cell.label in known)
    return Progress(total=len(cells), done=done, failed=failed, is_slice_over=is_over)


def read_cell(home: Path, cell: Cell, key: str) -> dict[str, Any] | None:
    """Return the record of a finished cell, or None."""
    path = _path(home, cell, key)
    return json.loads(path.read_text()) if path.is_file() else None


def valid(records: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the records without those of cells that came after something that was measured anew since.

    Args:
        records: By label, each cell behind those that it comes after.
    """
    kept: dict[str, dict[str, Any]] = {}
    for label, record in records.items():
        before = record.get("after", {})
        if all(name in kept and before[name] == _digest(kept[name]["result"]) for name in before):
            kept[label] = record
    return kept


def _digest(result: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()[:16]


def keep_cell(home: Path, cell: Cell, record: Mapping[str, Any]) -> None:
    """Write the record of a finished cell."""
    write_json(_path(home, cell, record["key"]), record)


def _path(home: Path, cell: Cell, key: str) -> Path:
    return home / "cells" / f"{cell.label}-{key}.json"


def _is_wanted(cell: Cell, only: Sequence[str]) -> bool:
    return not only or any(fnmatchcase(text, pattern) for pattern in only for text in (cell.name, cell.label))


def _measure(
    found: FoundStudy,
    cell: Cell,
    key: str,
    data: Mapping[str, str],
    home: Path,
    known: dict[str, dict[str, Any]],
    failed: dict[str, str],
) -> None:
    """Run one cell and keep its record; a failure is told and noted, so that the other cells still run."""
    if missing := [label for label in cell.after if label not in known]:
        failed[cell.label] = f"it comes after {', '.join(missing)}, which is not measured: run that first"
        _say(f"  {cell.label} is left out: {failed[cell.label]}")
        return
    scratch = home / "scratch" / f"{cell.label}-{key}"
    scratch.mkdir(parents=True, exist_ok=True)
    bench = Bench(workspace=home, scratch=scratch, found={label: known[label]["result"] for label in cell.after})
    start, before = time.monotonic(), bench.once("seconds", lambda: 0.0)
    try:
        result = json.loads(json.dumps(dict(found.study.run(cell, bench)), allow_nan=False))
    except Exception as error:
        failed[cell.label] = f"{type(error).__name__}: {error}"
        _say(f"  {cell.label} failed: {failed[cell.label]}")
        return
    finally:
        spent = before + time.monotonic() - start
        write_json(scratch / "seconds.json", spent)
    record = {
        "name": cell.name,
        "seed": cell.seed,
        "settings": dict(cell.settings),
        "key": key,
        "data": dict(data),
        "after": {label: _digest(result) for label, result in bench.found.items()},
        "seconds": round(spent, 1),
        "date": datetime.now(UTC).date().isoformat(),
        "origin": {"machine": machine(), "versions": versions(), "revision": revision(found.folder)},
        "result": result,
    }
    keep_cell(home, cell, record)
    known[cell.label] = json.loads(json.dumps(record))
    shutil.rmtree(scratch, ignore_errors=True)
    _say(f"  {cell.label} took {spent:.0f} s")


def revision(folder: Path) -> str | None:
    """Return the commit of the clone around `folder`, with a + behind it when files were changed; None outside one."""
    try:
        texts = [
            subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout
            for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return texts[0].strip() + ("+" if texts[1].strip() else "")


@contextmanager
def _sole_user(home: Path) -> Iterator[None]:
    """Hold the study's folder; two runs would measure the same cells and disturb each other's clocks."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another run is using {home}: wait for it, or choose another --workspace.") from error
        yield


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise SliceOver in this thread after so many seconds; 0 for never."""
    if not seconds:
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise SliceOver

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
