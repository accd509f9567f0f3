"""What scoring a ResNet-50 without data takes, groups included, beside Torch-Pruning."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from compress.studies import Bench, Cell, Study, Table, Verdict
from compress.studies.statistics import paired
from studies.charts import Dot, dots_chart
from studies.tables import NOTHING, markdown

ROOT = Path(__file__).parents[2]
SIDES = {"ours": "ours", "theirs": "Torch-Pruning"}


def quick() -> Iterator[Cell]:
    """All criteria of either side, and those that both have; five processes each, in turns."""
    yield from _cells(5)


def full() -> Iterator[Cell]:
    """The same, 15 processes each."""
    yield from _cells(15)


def _cells(num: int) -> Iterator[Cell]:
    for seed in range(num):
        for which in ("all", "shared"):
            for side in SIDES:
                yield Cell(name=f"{side}-{which}", seed=seed, settings={"side": side, "which": which})


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Score in a fresh process."""
    words = [sys.executable, "-m", "studies.scoring_side", cell.settings["side"], cell.settings["which"]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[1:])} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def conclude(table: Table) -> Verdict:
    """Compare the medians."""
    sentences = []
    for which, said in (("shared", "the criteria that both sides have"), ("all", "all criteria of either side")):
        a, b = (_medians(table, f"{side}-{which}") for side in SIDES)
        if not a or not b:
            continue
        counts = [str(_num_criteria(table, f"{side}-{which}")) for side in SIDES]
        ours, theirs = (f"{found['again_s']:.2f} s ({found['first_s']:.2f} s at first)" for found in (a, b))
        sentences.append(
            f"Groups and scores of a ResNet-50, {said} ({' and '.join(counts)}): {ours} and "
            f"{a['memory_mib']:.0f} MiB with us, {theirs} and {b['memory_mib']:.0f} MiB with Torch-Pruning; "
            f"{_in_parts(table, which, 'again_s')}; without the trial cut that verifies our groups, which "
            f"Torch-Pruning has not, {_in_parts(table, which, 'unverified_s')}."
        )
    if not sentences:
        return Verdict(headline=f"{len(table.rows)} cells are measured, too few to compare.")
    return Verdict(headline=sentences[0], sentences=tuple(sentences[1:]), table=_markdown(table))


def _in_parts(table: Table, which: str, path: str) -> str:
    """Return our time in parts of theirs, of pairs of processes that followed each other, and whether it is decided."""
    ours, theirs = ({seed: math.log(value) for seed, value in table.values(f"{side}-{which}", path).items()}
                    for side in SIDES)  # fmt: skip
    gap = paired(ours, theirs)
    if gap.half is None:
        return f"we take {math.exp(gap.mean):.2f} times as long (one pair of processes, so no interval)"
    low, high = (math.exp(gap.mean + sign * gap.half) for sign in (-1, 1))
    state = "not decided: " if low <= 1 <= high else ""
    return f"{state}we take {math.exp(gap.mean):.2f} [{low:.2f}, {high:.2f}] times as long"


def _num_criteria(table: Table, name: str) -> int:
    return sum(part not in ("groups", "verification", "statistics") for part in table.of(name)[0]["parts_s"])


def _medians(table: Table, name: str) -> dict[str, float]:
    found = {path: list(table.values(name, path).values()) for path in ("again_s", "first_s", "memory_mib")}
    return {path: median(values) for path, values in found.items() if values}


def _markdown(table: Table) -> str:
    head = ("", "criteria", "at first, s", "again, s", "groups, s", "trial cut, s", "memory on top, MiB")
    lines = []
    for name in table.names:
        side, _, which = name.partition("-")
        found = _medians(table, name)
        parts = [table.values(name, f"parts_s.{part}").values() for part in ("groups", "verification")]
        times = [f"{found['first_s']:.2f}", f"{found['again_s']:.2f}"]
        times += [f"{median(values):.2f}" if values else NOTHING for values in parts]
        lines.append((f"{SIDES[side]}, {which}", str(_num_criteria(table, name)), *times, f"{found['memory_mib']:.0f}"))
    said = "Seconds of processor time of one thread, medians over processes."
    return f"{said}\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw the seconds; hollow the first time in a process."""
    dots = []
    for name in table.names:
        side, _, which = name.partition("-")
        found = _medians(table, name)
        kind = "student" if side == "ours" else "int8"
        dots.append(Dot(label=f"{SIDES[side]}, {which}", kind=kind, value=found["again_s"], hollow=(found["first_s"],)))
    return {"seconds": dots_chart("Groups and scores of a ResNet-50", "seconds", dots)}


STUDY = Study(
    title="What does scoring without data cost?",
    ideas=("C9",),
    presets={"quick": quick, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
)
