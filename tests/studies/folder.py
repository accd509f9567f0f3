"""A study small enough for a test, written to a folder as a user would write it."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
"""Does a larger number win?"""

import os
import time

from compress.studies import Cell, Study, Verdict
from compress.studies.statistics import comparison


def quick():
    for name, size in (("small", 1), ("large", 3)):
        first = Cell(name=name, seed=0, settings={"size": size})
        yield first
        yield Cell(name=name, seed=1, settings={"size": size}, after=(first.label,))


def full():
    yield from quick()
    yield Cell(name="huge", seed=0, settings={"size": 9})


def run(cell, bench):
    with open(os.environ["STUDY_LOG"], "a") as log:
        log.write(cell.label + "\\n")
    if os.environ.get("STUDY_FAIL") == cell.label:
        raise RuntimeError("no luck")
    bench.once("first", lambda: [cell.seed])
    time.sleep(float(os.environ.get("STUDY_SLEEP", "0")))
    earlier = sum(result["value"] for result in bench.found.values())
    return {"value": cell.settings["size"] / 100 + 0.001 * cell.seed, "earlier": earlier}


def conclude(table):
    if not {"large", "small"} <= set(table.names):
        return Verdict(headline="Too few cells.")
    sentence = comparison("large", table.values("large", "value"), "small", table.values("small", "value"))
    return Verdict(headline=sentence, table="| a |\\n|---|\\n| 1 |", ideas={"C9": "large it is."})


def figures(table):
    return {"dots": f"<svg>{len(table.rows)}</svg>"}


STUDY = Study(
    title="Does a larger number win?",
    ideas=("C9", "C3"),
    presets={"quick": quick, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=lambda cell: {"numbers": os.environ.get("STUDY_DATA", "1")},
)
'''


def write_study(root: Path, number: str = "0042") -> Path:
    """Write the study under `root`/studies and return its folder."""
    folder = root / "studies" / f"{number}-numbers"
    folder.mkdir(parents=True)
    (folder / "study.py").write_text(SOURCE)
    (folder / "README.md").write_text(f"# {number}\n\n<!-- results quick -->\nold\n<!-- end quick -->\n\nbehind\n")
    return folder
