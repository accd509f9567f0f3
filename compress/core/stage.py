"""Stages: verbs that take stored entries and return what is to be stored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NewType, Self, get_type_hints

from compress.core.model import Model
from compress.core.registry import FAMILIES, Family, Option, Piece, UnknownName
from compress.core.task import Task

#: Name of a stored entry: "<stage>-<16 hexadecimal digits of its identity>".
Ref = NewType("Ref", str)


def piece_field(family: Family[Any], default: Any) -> Any:
    """Return a dataclass field of a configuration that holds a piece of `family`."""
    return field(default=default, metadata={"family": family.name})


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Base of every stage's configuration: a frozen dataclass whose fields all have defaults.

    Fields made by `piece_field` accept a name, JSON or a piece, and hold a bound piece.
    """

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if "family" in item.metadata:
                value = FAMILIES[item.metadata["family"]].from_json(value)
            else:
                option = Option(name=item.name, default=item.default, annotation=hints[item.name])
                value = option.parse(value, type(self).__name__)
            object.__setattr__(self, item.name, value)

    @property
    def is_joint(self) -> bool:
        """Whether several processes may work on the same call at once; they share their findings themselves."""
        return False

    @classmethod
    def from_json(cls, data: str | Mapping[str, Any]) -> Self:
        """Read a mapping or its JSON text; a misspelt field is answered with the nearest one."""
        if isinstance(data, str):
            try:
                data = json.loads(data or "{}")
            except json.JSONDecodeError as error:
                raise ValueError(f"{cls.__name__}: {data!r} is not valid JSON: {error}.") from error
        if not isinstance(data, Mapping):
            raise ValueError(f"{cls.__name__} is a JSON object of options; got {data!r}.")
        known = [item.name for item in dataclasses.fields(cls)]
        for name in data:
            if name not in known:
                raise UnknownName.among(f"option of {cls.__name__}:", name, known)
        return cls(**data)

    def as_json(self) -> dict[str, Any]:
        """Only what differs from the defaults, so that a new option leaves old identities alone."""
        default, changed = type(self)(), {}
        for item in dataclasses.fields(self):
            mine, theirs = (_plain(getattr(config, item.name)) for config in (self, default))
            if mine != theirs:
                changed[item.name] = mine
        return changed


def _plain(value: Any) -> Any:
    if isinstance(value, Piece):
        return value.as_json()
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something stored: a report, perhaps a model, perhaps files.

    Attributes:
        ref: Its name.
        report: What the stage measured and decided, JSON.
        files: Absolute paths by relative name ("model.onnx").
        folder: Where the model lies, or None when the entry has none.
    """

    ref: Ref
    report: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    loaded: Model | None = None

    @property
    def model(self) -> Model:
        """The model, rebuilt on first use, hashes checked."""
        if self.loaded is None:
            if self.folder is None:
                raise ValueError(f"{self.ref} holds no model: name an entry of a stage that makes one.")
            object.__setattr__(self, "loaded", Model.load(self.folder))
        assert self.loaded is not None
        return self.loaded

    @classmethod
    def of(cls, model: Model, name: str = "unsaved") -> Entry:
        """Wrap a model that is in no store."""
        return cls(ref=Ref(name), report={}, loaded=model)


@dataclass(frozen=True, kw_only=True)
class StageCall:
    """What a stage works on.

    Attributes:
        config: The stage's configuration.
        parents: Entries by role.
        scratch: Folder that survives a kill and goes when the stage is done; for checkpoints.
        optional_task: The task, or None for a stage that was called without one.
    """

    config: Any
    parents: Mapping[str, Entry]
    scratch: Path
    optional_task: Task | None = None

    @property
    def task(self) -> Task:
        """The task; a stage that needs one and got none is the caller's mistake."""
        if self.optional_task is None:
            raise ValueError("this stage needs a task: pass --task NAME.")
        return self.optional_task

    def model(self, role: str = "model") -> Model:
        """Return the parent model of `role`, checked against the task when there is one."""
        model = self.parents[role].model
        if self.optional_task is not None:
            self.optional_task.check_fits(model.input)
        return model


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage hands over for storing.

    Attributes:
        report: JSON; numbers are plain floats, units stand in the names.
        model: The new model, if any.
        files: Files to keep by relative name; they are copied out of the scratch folder.
    """

    report: Mapping[str, Any]
    model: Model | None = None
    files: Mapping[str, Path] = field(default_factory=dict)


#: (call) -> StageResult. Extra facts on the card: config (class), roles, optional_roles, reads_test, version.
STAGES: Family[Callable[[StageCall], StageResult]] = Family("stage", data=("call",))


def identity(
    stage: str, config: StageConfig, parents: Mapping[str, Ref], task: Task | None
) -> tuple[Ref, dict[str, Any]]:
    """Return the name of the entry that this call makes, and the record behind it.

    Equal calls have equal names, on every machine: where the data lies does not count, its
    digest does. The stage's `version` counts up when its results change for equal arguments.
    """
    record = {
        "stage": stage,
        "version": STAGES[stage].extra.get("version", 1),
        "config": config.as_json(),
        "parents": dict(sorted(parents.items())),
        "task": task.identity() if task else None,
    }
    return ref_of(record), record


def ref_of(record: Mapping[str, Any]) -> Ref:
    """Return the name that belongs to an identity's record; where the data lay does not count."""
    text = json.dumps(_without_place(record), sort_keys=True, separators=(",", ":"))
    return Ref(f"{record['stage']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}")


def _without_place(record: Mapping[str, Any]) -> dict[str, Any]:
    if record["task"] is None:
        return dict(record)
    piece = {key: value for key, value in record["task"]["piece"].items() if key != "root"}
    return {**record, "task": {**record["task"], "piece": piece}}
