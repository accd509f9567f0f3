"""Writes what a study found: `results/<preset>.json`, figures, and the part of its README that code owns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.layout import write_json
from compress.studies.finder import FoundStudy
from compress.studies.runner import keep_cell, read_cell, valid
from compress.studies.study import Cell, Row, Table, Verdict

#: Presets whose verdict counts, the most telling first.
RANKING = ("full", "cpu", "quick")
#: What a list of comparisons has to say of itself.
CAVEAT = (
    "- Intervals are of 95 %, over seeds, each of one comparison: of twenty pairs without a difference, about one is "
    "said to have one."
)
#: Of a long list, so many are named.
NUM_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class State:
    """How much of a preset is measured.

    Attributes:
        preset: Its name.
        total: Number of its cells.
        done: How many of them are in the workspace or in the committed results.
        headline: Of the committed results; "" without any.
    """

    preset: str
    total: int
    done: int
    headline: str = ""


def results_path(found: FoundStudy, preset: str) -> Path:
    """Return where the results of a preset are committed."""
    return found.folder / "results" / f"{preset}.json"


def records_of(found: FoundStudy, preset: str, workspace: Path | None) -> dict[str, dict[str, Any]]:
    """Return the records of finished cells by label: those of the workspace, else the committed ones.

    Records do not count of a cell whose settings were changed since, or that came after a result that is another now.
    """
    keys, committed = found.study.keys(preset), _committed(found, preset)
    records: dict[str, dict[str, Any]] = {}
    for cell in found.study.cells(preset):
        record = read_cell(workspace / found.name, cell, keys[cell.label]) if workspace else None
        record = record or committed.get(cell.label)
        if record and record["key"] == keys[cell.label]:
            records[cell.label] = record
    return valid(records)


def take_committed(found: FoundStudy, preset: str, workspace: Path) -> int:
    """Put committed records of cells into the workspace where it has none of its own; return how many."""
    taken = 0
    for label, record in records_of(found, preset, None).items():
        cell = next(cell for cell in found.study.cells(preset) if cell.label == label)
        if read_cell(workspace / found.name, cell, record["key"]) is None:
            keep_cell(workspace / found.name, cell, record)
            taken += 1
    return taken


def table_of(found: FoundStudy, preset: str, records: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the finished cells in the order of the preset."""
    cells = found.study.cells(preset)
    rows = tuple(_row(cell, records[cell.label]) for cell in cells if cell.label in records)
    missing = tuple(cell.label for cell in cells if cell.label not in records)
    return Table(preset=preset, rows=rows, missing=missing)


def state_of(found: FoundStudy, preset: str, workspace: Path | None) -> State:
    """Return how much of a preset is measured."""
    path = results_path(found, preset)
    headline = json.loads(path.read_text())["headline"] if path.is_file() else ""
    done = len(records_of(found, preset, workspace))
    return State(preset=preset, total=len(found.study.cells(preset)), done=done, headline=headline)


def publish(found: FoundStudy, preset: str, workspace: Path | None) -> Verdict:
    """Write results, figures and the README's part for the cells that are finished.

    Raises:
        ValueError: None is.
    """
    records = records_of(found, preset, workspace)
    if not records:
        raise ValueError(f"no cell of {found.name} {preset} is measured: run it without --report first.")
    table = table_of(found, preset, records)
    verdict = found.study.conclude(table)
    figures = figures_of(found, table)
    target = results_path(found, preset)
    for old in target.parent.glob(f"{preset}-*.svg"):
        old.unlink()
    write_json(target, _content(found, table, records, verdict))
    for name, svg in figures.items():
        (target.parent / f"{preset}-{name}.svg").write_text(svg + "\n")
    readme = found.folder / "README.md"
    text = readme.read_text() if readme.is_file() else f"# {found.number}: {found.study.title}\n"
    section = section_of(table, verdict, last_date(records), sorted(figures))
    readme.write_text(with_section(text, preset, section))
    return verdict


def figures_of(found: FoundStudy, table: Table) -> dict[str, str]:
    """Return what can be drawn of the rows that are there, SVG by name."""
    return {name: svg for name, svg in found.study.figures(table).items() if svg}


def section_of(table: Table, verdict: Verdict, date: str, figures: Sequence[str]) -> str:
    """Return what stands between a preset's markers in the README."""
    num_cells = len(table.rows) + len(table.missing)
    state = f"{table.preset}, {len(table.rows)} of {num_cells} cells, seeds {_spoken(table.seeds)}, {date}"
    lines = [f"**{verdict.headline}** ({state})", *(f"- {sentence}" for sentence in verdict.sentences)]
    if any(" beats " in line or " loses to " in line for line in lines):
        lines.append(CAVEAT)
    if table.missing:
        lines.append(f"- Not measured yet: {_some(table.missing)}.")
    pictures = [f"![{name}](results/{table.preset}-{name}.svg)" for name in figures]
    parts = [lines[0], "\n".join(lines[1:]), verdict.table.strip(), "\n".join(pictures)]
    return "\n\n".join(part for part in parts if part)


def with_section(text: str, preset: str, section: str) -> str:
    r"""Return a README in which the text between the markers of `preset` is `section`; without markers it comes last.

    >>> print(with_section("a\n<!-- results quick -->\nold\n<!-- end quick -->\nb\n", "quick", "new"))
    a
    <!-- results quick -->
    new
    <!-- end quick -->
    b
    <BLANKLINE>
    """
    start, end = f"<!-- results {preset} -->", f"<!-- end {preset} -->"
    before, has_start, rest = text.partition(start)
    _, has_end, after = rest.partition(end)
    if bool(has_start) != bool(has_end):
        raise ValueError(f"the README has one of the two markers {start} and {end}: write both or none.")
    if not has_start:
        before, after = f"{text.rstrip()}\n\n", "\n"
    return f"{before}{start}\n{section}\n{end}{after}"


def last_date(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the day on which the last of these cells was measured."""
    return max(str(record["date"]) for record in records.values())


def _committed(found: FoundStudy, preset: str) -> dict[str, dict[str, Any]]:
    path = results_path(found, preset)
    if not path.is_file():
        return {}
    content = json.loads(path.read_text())
    return {
        f"{cell['name']}@{cell['seed']}": {**cell, "origin": content["origins"][cell["origin"]]}
        for cell in content["cells"]
    }


def _row(cell: Cell, record: Mapping[str, Any]) -> Row:
    return Row(cell=cell, result=record["result"])


def _content(
    found: FoundStudy, table: Table, records: Mapping[str, Mapping[str, Any]], verdict: Verdict
) -> dict[str, Any]:
    """Return the results as they are committed; machine, versions and revision are told once and numbered."""
    origins: list[Any] = []
    cells = []
    for row in table.rows:
        record = dict(records[row.cell.label])
        if record["origin"] not in origins:
            origins.append(record["origin"])
        cells.append(record | {"origin": origins.index(record["origin"])})
    return {
        "study": found.name,
        "title": found.study.title,
        "version": found.study.version,
        "preset": table.preset,
        "date": last_date(records),
        "seeds": list(table.seeds),
        "data": {name: digest for cell in cells for name, digest in cell["data"].items()},
        "origins": origins,
        "cells": cells,
        "missing": list(table.missing),
        "seconds": round(sum(cell["seconds"] for cell in cells), 1),
        "headline": verdict.headline,
        "sentences": list(verdict.sentences),
        "ideas": dict(verdict.ideas),
    }


def _some(names: Sequence[str]) -> str:
    """Return names as an enumeration, the first ones of many.

    >>> _some([f"large@{seed}" for seed in range(20)])
    'large@0, large@1, large@2, large@3 and 16 more'
    """
    shown = names if len(names) <= 2 * NUM_NAMED else names[:NUM_NAMED]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def _spoken(seeds: Sequence[int]) -> str:
    """Return numbers as text, a run of them by its ends.

    >>> _spoken((0, 1, 2)), _spoken((0,)), _spoken((0, 5))
    ('0 to 2', '0', '0, 5')
    """
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
