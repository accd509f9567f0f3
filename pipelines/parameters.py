"""Parameters of a pipeline from a YAML file: written for people, checked against what the pipeline takes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from deploy.night import check_teacher
from pipelines import nightly, preset

#: Keys of the file besides the pipeline's own inputs.
EXTRA = ("preset",)
#: What a value of a type of Kubeflow is in Python.
TYPES: Mapping[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        ValueError: The file holds something else.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}: write one `name: value` a line.")
    return found or {}


def check_keys(where: str, found: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError for a key that is not known; offers the nearest."""
    names = sorted(known)
    for key in found:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(names)}."
            raise ValueError(f"{where}: unknown key {key!r}. {hint}")


def inputs_of(pipeline: Any) -> dict[str, Any]:
    """Return the inputs of a pipeline: name to Kubeflow's description of it."""
    return dict(pipeline.component_spec.inputs or {})


def arguments(where: str, written: Mapping[str, Any], pipeline: Any) -> dict[str, Any]:
    """Return the pipeline's arguments for what somebody wrote.

    Args:
        where: Name of the file, for messages.
        written: `preset` (name or file that gives task, budgets, teacher and training) and any input of the pipeline;
            configurations may be mappings, which become JSON texts.
        pipeline: Compiled pipeline function.

    Raises:
        ValueError: An unknown key, a value of a wrong type, an input that is missing, or a teacher that each night
            would replace by its own student.
    """
    inputs = inputs_of(pipeline)
    check_keys(where, written, (*inputs, *EXTRA))
    base: dict[str, Any] = {}
    if "preset" in written:
        base = preset.arguments(preset.load(str(written["preset"])))
    try:
        given = {name: WRITTEN.get(name, _same)(value) for name, value in written.items() if name not in EXTRA}
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    merged = {name: value for name, value in {**base, **given}.items() if name in inputs}
    for name, value in merged.items():
        _check_type(where, name, value, inputs[name].type)
    missing = [name for name, spec in inputs.items() if not spec.optional and name not in merged]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} is missing: write it, or name a preset ({_presets()}).")
    if pipeline.name == nightly.NAME:
        check_teacher(str(merged.get("teacher", "")), str(merged.get("model_name", "")))
    return merged


def _same(value: Any) -> Any:
    return value


def _budgets(value: Any) -> Any:
    return preset.arguments({"task": "", "budgets": value})["budgets"] if isinstance(value, list) else value


def _text(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def _count(value: Any) -> Any:
    if type(value) is int or (isinstance(value, str) and value.isdigit()):
        return str(value)
    raise ValueError(f"gpu_limit is a number of accelerators, 0 or more; got {value!r}.")


#: What people write -> what the pipeline takes, for the inputs that are texts of something else.
WRITTEN: Mapping[str, Callable[[Any], Any]] = {
    "budgets": _budgets,
    "task": _text,
    "train_config": _text,
    "gpu_limit": _count,
}


def _check_type(where: str, name: str, value: Any, kind: str) -> None:
    wanted = TYPES.get(_kind(kind))
    is_wrong = wanted is not None and (
        not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)
    )
    if is_wrong and wanted is not None:
        names = " or ".join(item.__name__ for item in wanted)
        raise ValueError(f"{where}: {name} is a {names}; got {value!r}.")


def _kind(kind: str) -> str:
    names = {"String": "STRING", "Integer": "NUMBER_INTEGER", "Float": "NUMBER_DOUBLE", "Boolean": "BOOLEAN"}
    return names.get(kind, {"List": "LIST", "Dict": "STRUCT"}.get(kind.removeprefix("typing.").split("[")[0], ""))


def _presets() -> str:
    return ", ".join(preset.names())
