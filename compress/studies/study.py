"""What a study is made of: cells to measure, a table of what they gave, and the verdict that follows from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.core.layout import write_json
from compress.core.registry import UnknownName

#: Cell's name: it becomes part of a file's name and of `--only`.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=,-]*")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: what is tried, under which seed, with which settings.

    Attributes:
        name: What is tried ("taylor"); a table has one line a name.
        seed: Of everything random in it.
        settings: JSON; all that the measurement depends on besides the seed.
        after: Labels of the cells whose results it reads; they run first.

    >>> Cell(name="taylor", seed=2).label
    'taylor@2'
    """

    name: str
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert NAME.fullmatch(self.name), f"{self.name!r} cannot name a cell"

    @property
    def label(self) -> str:
        """Name and seed, unique in a preset."""
        return f"{self.name}@{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where a cell is measured.

    Attributes:
        workspace: Folder that all cells of the study share: stored models, networks to start from.
        scratch: Folder of this cell, which survives a kill and goes when the cell is done.
        found: Results of the cells that this one comes after, by label.
    """

    workspace: Path
    scratch: Path
    found: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return what `measure` gave when this cell first came here, as JSON; also after a kill.

        Args:
            name: Unique in the cell, fit for a file's name.
            measure: Returns JSON.
        """
        path = self.scratch / f"{name}.json"
        if not path.is_file():
            write_json(path, measure())
        return json.loads(path.read_text())


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell and what was measured in it."""

    cell: Cell
    result: Mapping[str, Any]

    def __getitem__(self, path: str) -> Any:
        """Return a part of the result by its dotted path; KeyError when it is not there."""
        value: Any = self.result
        for key in path.split("."):
            value = value[key]
        return value


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of one preset that are there, in the order of its cells.

    Attributes:
        preset: Its name.
        rows: What was measured.
        missing: Labels of the cells that are still to be measured.
    """

    preset: str
    rows: tuple[Row, ...]
    missing: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of cells with at least one row."""
        return tuple(dict.fromkeys(row.cell.name for row in self.rows))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the rows, ascending."""
        return tuple(sorted({row.cell.seed for row in self.rows}))

    def of(self, name: str) -> tuple[Row, ...]:
        """Return the rows of one name, by seed."""
        return tuple(sorted((row for row in self.rows if row.cell.name == name), key=lambda row: row.cell.seed))

    def values(self, name: str, path: str) -> dict[int, float]:
        """Return one number of every row of `name` that has it, by seed."""
        found = {}
        for row in self.of(name):
            try:
                value = row[path]
            except (KeyError, TypeError):
                continue
            if value is not None:
                found[row.cell.seed] = float(value)
        return found


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from the numbers, in words that code wrote.

    Attributes:
        headline: The answer in one sentence; goes into docs/ideas.md.
        sentences: The comparisons behind it.
        table: Markdown.
        ideas: A sentence of its own for some of the ideas, by id; none ("") where the cells do not judge it yet.
    """

    headline: str
    sentences: tuple[str, ...] = ()
    table: str = ""
    ideas: Mapping[str, str] = field(default_factory=dict)


def _nothing(_: Any) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question and the code that answers it. A study's folder has a `study.py` whose STUDY is one of these.

    Attributes:
        title: The question, in one line.
        ideas: Ids of the rows of the ideas list that it judges.
        presets: Functions that return cells, by name: "quick" for two cores in 15 minutes, "full" for a GPU.
        run: Measures one cell and returns JSON.
        conclude: Makes a verdict of the rows, however few there are.
        figures: Draws the rows, SVG by name.
        data: Digests of the data that a cell reads, by name; raises when they are missing, before anything runs.
        version: Counts up when equal cells would give other results.
    """

    title: str
    ideas: tuple[str, ...]
    presets: Mapping[str, Callable[[], Iterable[Cell]]]
    run: Callable[[Cell, Bench], Mapping[str, Any]]
    conclude: Callable[[Table], Verdict]
    figures: Callable[[Table], Mapping[str, str]] = _nothing
    data: Callable[[Cell], Mapping[str, str]] = _nothing
    version: int = 1

    def cells(self, preset: str) -> tuple[Cell, ...]:
        """Return the cells of a preset, each behind those that it comes after."""
        if preset not in self.presets:
            raise UnknownName.among("preset", preset, self.presets)
        cells = tuple(self.presets[preset]())
        seen: set[str] = set()
        for cell in cells:
            assert cell.label not in seen, f"two cells are called {cell.label}"
            assert set(cell.after) <= seen, f"{cell.label} stands in front of {set(cell.after) - seen}"
            seen.add(cell.label)
        return cells

    def keys(self, preset: str) -> dict[str, str]:
        """Return, by label, 16 digits that change with whatever the cell's result follows from, but for data and code.

        A cell that comes after another one has another key when the other one has.
        """
        keys: dict[str, str] = {}
        for cell in self.cells(preset):
            before = [keys[label] for label in cell.after]
            facts = [self.version, cell.name, cell.seed, cell.settings, before]
            keys[cell.label] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return keys
