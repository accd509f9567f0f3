"""Presets: the pipeline's parameters for a data set, written for people, read for Kubeflow."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("presets")
#: Stages of a budget, in their order; each has a configuration in the preset.
STAGES = ("search", "prune", "distill", "finetune_quant", "export", "cascade", "evaluate", "gate")
KEYS = ("task", "teacher", "train", "budgets", "model_name")


def names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    """Return a preset by its name, or by the path of a JSON file.

    Raises:
        ValueError: No such preset, or a key that no preset has.
    """
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no preset {name!r}. {hint}There are {', '.join(names())}; or name a JSON file like them.")
    try:
        preset = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    _check_keys(str(path), preset, KEYS)
    for budget in preset["budgets"]:
        _check_keys(f"{path}, budget {budget.get('name', '?')!r}", budget, ("name", *STAGES))
    return dict(preset)


def arguments(preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preset as arguments of `pipelines.compress`: configurations become JSON texts.

    >>> arguments({"task": {"name": "digits"}, "budgets": [{"name": "half", "cascade": "off"}]})["budgets"][0]["prune"]
    '{}'
    """
    return {
        "task": _text(preset["task"]),
        "teacher": preset.get("teacher", ""),
        "train_config": _text(preset.get("train", {})),
        "model_name": preset.get("model_name", "secateur"),
        "budgets": [
            {"name": budget["name"], **{stage: _text(budget.get(stage, {})) for stage in STAGES}}
            for budget in preset["budgets"]
        ],
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _check_keys(where: str, found: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"{where}: unknown key {key!r}. Did you mean {near[0] if near else known[0]!r}?")
