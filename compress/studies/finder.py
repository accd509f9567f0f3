"""Finds studies: folders `NNNN-question` with a `study.py`, in ./studies or beside the library."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from compress.core.registry import UnknownName
from compress.studies.study import Study

FOLDER = re.compile(r"(\d{4})-[a-z0-9-]+")


@dataclass(frozen=True, kw_only=True)
class FoundStudy:
    """A study and where it lies.

    Attributes:
        name: Name of its folder ("0001-criteria").
        folder: The folder, with README.md, study.py and results/.
        study: What study.py defines.
    """

    name: str
    folder: Path
    study: Study

    @property
    def number(self) -> str:
        """The four digits."""
        return self.name[:4]


def studies_root() -> Path:
    """Return the folder of studies: ./studies, else the one in the clone that the library runs from.

    Raises:
        ValueError: There is none; an installed package brings no studies.
    """
    places = (Path("studies"), Path(__file__).resolve().parents[2] / "studies")
    for place in places:
        if any(FOLDER.fullmatch(path.name) for path in place.glob("*/")):
            return place.absolute()
    raise ValueError("no studies here: run this in a clone of the repository, whose folder `studies` holds them.")


def study_names(root: Path) -> list[str]:
    """Return the names of the studies under `root`, by number."""
    return sorted(path.parent.name for path in root.glob("*/study.py") if FOLDER.fullmatch(path.parent.name))


def find_study(root: Path, name: str) -> FoundStudy:
    """Load one study by its number or name ("0001", "1", "0001-criteria", "criteria").

    Raises:
        UnknownName: There is no such study; says the nearest.
    """
    names = study_names(root)
    wanted = name.zfill(4) if name.isdigit() else name
    matches = [known for known in names if wanted in (known, known[:4], known[5:])]
    if len(matches) != 1:
        raise UnknownName.among("study", name, names)
    return FoundStudy(name=matches[0], folder=root / matches[0], study=_load(root / matches[0]))


def _load(folder: Path) -> Study:
    """Run a study's file; what several studies share is imported as `studies.…`."""
    spec = importlib.util.spec_from_file_location(f"study_{folder.name[:4]}", folder / "study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    parent = str(folder.parent.parent)
    if parent not in sys.path:
        sys.path.insert(0, parent)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise ValueError(f"{folder / 'study.py'} defines no STUDY: start from docs/skeletons/study.md.")
    return study
