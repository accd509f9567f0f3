"""Studies on handwritten digits, small enough for a test."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from compress.studies import Bench, Cell, Row, Table
from compress.studies.finder import find_study
from studies.ideas import STUDIES

DIGITS: dict[str, Any] = {
    "task": {"name": "digits", "limit": 192},
    "builder": {"name": "resnet_cifar", "depth": 8, "width": 8},
    "weights": None,
    "train": {"max_steps": 24, "batch_size": 32},
    "steps": 4,
    "precision": "bfloat16",
    "batch_size": 32,
    "recalibrate_batches": 2,
    "score_batches": 2,
    "test_limit": 64,
    "rounds": 1,
}


def module_of(number: str) -> ModuleType:
    """Return the code of a study."""
    find_study(STUDIES, number)
    return sys.modules[f"study_{number}"]


def measured(module: ModuleType, cells: Iterable[Cell], workspace: Path, **settings: Any) -> Table:
    """Run cells with other settings, each after those that it comes after."""
    found: dict[str, Any] = {}
    rows = []
    for cell in cells:
        cell = replace(cell, settings={**cell.settings, **settings})
        scratch = workspace / "scratch" / cell.label
        scratch.mkdir(parents=True)
        bench = Bench(workspace=workspace, scratch=scratch, found={label: found[label] for label in cell.after})
        found[cell.label] = json.loads(json.dumps(module.STUDY.run(cell, bench), allow_nan=False))
        rows.append(Row(cell=cell, result=found[cell.label]))
    return Table(preset="quick", rows=tuple(rows))
