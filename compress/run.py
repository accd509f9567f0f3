"""The one door: get the parents, run the stage, put the result. Finished work is never redone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress import catalogue
from compress.core.model import Model
from compress.core.registry import UnknownName
from compress.core.stage import STAGES, Entry, Ref, StageCall, StageConfig, StageResult, identity, ref_of
from compress.core.task import TASKS, Task
from compress.store import LocalStore, ModelStore


@dataclass(frozen=True)
class Outcome:
    """What `run_stage` found or made.

    Attributes:
        entry: The stored entry.
        is_reused: Whether it was there already.
        seconds: How long making it took, now or back then.
    """

    entry: Entry
    is_reused: bool
    seconds: float


def run_stage(
    stage: str,
    config: StageConfig | str | Mapping[str, Any],
    parents: Mapping[str, Ref],
    task: Task | None,
    store: ModelStore,
) -> Outcome:
    """Return the entry that this call makes; run the stage only if no earlier call made it.

    Args:
        stage: Name of a registered stage.
        config: Its configuration, or JSON of one.
        parents: Stored entries by role, as the stage's card names them.
        task: The data, for stages that need some.
        store: Where parents are read and the result is put.

    Raises:
        ValueError: Unknown stage, option or role; says what to write instead.
    """
    catalogue.load()
    card = STAGES[stage]
    if not isinstance(config, StageConfig):
        config = card.extra["config"].from_json(config)
    assert isinstance(config, StageConfig)
    _check_roles(stage, parents)
    ref, record = identity(stage, config, parents, task)
    with _local(store).locked(ref):
        if store.has(ref):
            _local(store).clear_scratch(ref)
            return Outcome(store.get(ref), True, store.record(ref)["seconds"])
        start = time.monotonic()
        entries = {role: store.get(parent) for role, parent in parents.items()}
        visible = task.opened() if task and card.extra.get("reads_test") else task
        call = StageCall(config=config, parents=entries, scratch=store.scratch(ref), optional_task=visible)
        result = card.function(call)
        seconds = time.monotonic() - start
        entry = store.put(ref, record, result, seconds)
        _local(store).clear_scratch(ref)
    return Outcome(entry, False, seconds)


def task_of(spec: str | Mapping[str, Any]) -> Task:
    """Return the task that a name, piece JSON or `Task.identity()` describes.

    Raises:
        ValueError: The data is not the data whose digest the identity pins.
    """
    catalogue.load()
    if isinstance(spec, str) and spec.lstrip().startswith("{"):
        try:
            spec = json.loads(spec)
        except json.JSONDecodeError as error:
            raise ValueError(f"task {spec!r} is not valid JSON: {error}.") from error
    if isinstance(spec, str) or not {"piece", "digest"} <= set(spec):
        return TASKS.from_json(spec)()
    task: Task = TASKS.from_json(spec["piece"])()
    if task.digest != spec["digest"]:
        raise ValueError(
            f"the data of task {task.name!r} changed: digest {task.digest[:12]}…, pinned {spec['digest'][:12]}…. "
            f"Start a new run, so that it is resolved again."
        )
    return task


def import_model(model: Model, store: ModelStore) -> Ref:
    """Store a model that no stage here made, under a name derived from weights, lineage and input."""
    from compress.train.checkpoint import state_digest

    content = {
        "weights": state_digest(model.module),
        "lineage": model.lineage.as_json(),
        "input": model.input.as_json(),
    }
    record = {"stage": "imported", "version": 1, "config": content, "parents": {}, "task": None}
    ref = ref_of(record)
    if not store.has(ref):
        store.put(ref, record, StageResult(report={}, model=model), 0.0)
    return ref


def _check_roles(stage: str, parents: Mapping[str, Ref]) -> None:
    required = STAGES[stage].extra.get("roles", ())
    optional = STAGES[stage].extra.get("optional_roles", ())
    for role in parents:
        if role not in (*required, *optional):
            raise UnknownName.among(f"role of stage {stage!r}:", role, [*required, *optional])
    missing = [role for role in required if role not in parents]
    if missing:
        raise ValueError(f"stage {stage!r} needs {' and '.join(missing)}: pass --{missing[0]} ENTRY.")


def _local(store: ModelStore) -> LocalStore:
    local = getattr(store, "local", store)
    assert isinstance(local, LocalStore)
    return local
