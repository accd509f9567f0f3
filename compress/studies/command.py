"""What `secateur study` does, without the parsing of its words."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress import catalogue
from compress.studies.finder import find_study, studies_root, study_names
from compress.studies.record import publish, results_path, state_of, take_committed
from compress.studies.runner import UNFINISHED, Progress, run_cells


def show_all(workspace: Path, *, as_json: bool = False) -> None:
    """Print every study with its presets and how much of each is measured."""
    catalogue.load()
    root = studies_root()
    rows: list[dict[str, Any]] = []
    for name in study_names(root):
        found = find_study(root, name)
        states = [asdict(state_of(found, preset, workspace)) for preset in found.study.presets]
        rows.append({"study": name, "title": found.study.title, "ideas": list(found.study.ideas), "presets": states})
    if as_json:
        print(json.dumps(rows, indent=1, sort_keys=True))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("study", "title", "preset", "cells", "verdict", box=None, pad_edge=False)
    for row in rows:
        for index, state in enumerate(row["presets"]):
            head = ("", "") if index else (row["study"], row["title"])
            table.add_row(*head, state["preset"], f"{state['done']} of {state['total']}", state["headline"])
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


def measure(
    name: str,
    preset: str,
    workspace: Path,
    *,
    only: Sequence[str] = (),
    slice_minutes: float = 0.0,
    is_continued: bool = False,
) -> Progress:
    """Measure what is missing of a preset; when it is continued, cells that are committed are not missing."""
    if slice_minutes < 0:
        raise ValueError(f"--slice-minutes {slice_minutes:g}: use 0 for no limit, or more.")
    catalogue.load()
    found = find_study(studies_root(), name)
    if is_continued:
        taken = take_committed(found, preset, workspace.absolute())
        print(f"secateur: {taken} committed cells taken as they are", file=sys.stderr)
    return run_cells(found, preset, workspace.absolute(), only=only, slice_s=60 * slice_minutes)


def explain(progress: Progress) -> int:
    """Say why a preset is not complete; return the exit status: UNFINISHED for one that is merely not at its end."""
    left = f"{len(progress.done)} of {progress.total} cells are measured"
    if progress.failed:
        print(f"secateur: {left}; {len(progress.failed)} failed:", file=sys.stderr)
        for label, why in progress.failed.items():
            print(f"  {label}: {why}", file=sys.stderr)
        return 1
    why = "the slice of time is over" if progress.is_slice_over else "--only left some out"
    print(f"secateur: {left}: {why}. Run the same again; --report writes down what there is.", file=sys.stderr)
    return UNFINISHED


def conclude(name: str, preset: str, workspace: Path, *, as_json: bool = False) -> None:
    """Write results, figures and verdict into the study's folder, and print the verdict."""
    catalogue.load()
    found = find_study(studies_root(), name)
    verdict = publish(found, preset, workspace.absolute())
    path = results_path(found, preset)
    if as_json:
        print(path.read_text(), end="")
        return
    print(verdict.headline)
    for sentence in verdict.sentences:
        print(f"  {sentence}")
    if verdict.table:
        print(f"\n{verdict.table.strip()}\n")
    print(f"written to {path.parent} and {found.folder / 'README.md'}; `make ideas` brings it into docs/ideas.md")


def use_threads(count: int) -> None:
    """Let torch use `count` CPU threads."""
    import torch

    if count < 1:
        raise ValueError(f"--threads {count}: use 1 or more.")
    torch.set_num_threads(count)
