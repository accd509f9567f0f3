"""The one door: get the parents, run the stage, put the result. Finished work is never redone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from compress import catalogue
from compress.core.model import Model
from compress.core.registry import UnknownName
from compress.core.stage import STAGES, Entry, Ref, StageCall, StageConfig, StageResult, identity, ref_of
from compress.core.task import TASKS, Task
from compress.store import LocalStore, ModelStore, full_disk_named
from compress.train.processes import Processes, join


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

    Several processes that a launcher started call this alike. The first one looks, writes and stores; the others work
    along where the stage can use them, and write nothing.

    Raises:
        ValueError: Unknown stage, option or role; says what to write instead. Or the stage runs in one process.
    """
    catalogue.load()
    card = STAGES[stage]
    if not isinstance(config, StageConfig):
        config = card.extra["config"].from_json(config)
    assert isinstance(config, StageConfig)
    _check_roles(stage, parents)
    ref, record = identity(stage, config, parents, task)
    processes = _processes_for(stage)
    if not processes.is_first:
        return _work_along(ref, config, task, processes)
    if config.is_joint:
        return _run_jointly(ref, record, config, parents, task, store)
    local = _local(store)
    with full_disk_named(ref, local.root), local.locked(ref):
        is_there = store.has(ref)
        processes.bytes_of_first(_order(ref, is_there))
        if is_there:
            local.clear_scratch(ref)
            return Outcome(store.get(ref), True, store.record(ref)["seconds"])
        start = time.monotonic()
        entries = {role: store.get(parent) for role, parent in parents.items()}
        visible = task.opened() if task and card.extra.get("reads_test") else task
        call = StageCall(config=config, parents=entries, scratch=store.scratch(ref), optional_task=visible)
        result = card.function(call)
        seconds = time.monotonic() - start
        entry = store.put(ref, record, result, seconds)
        local.clear_scratch(ref)
    return Outcome(entry, False, seconds)


def _run_jointly(
    ref: Ref,
    record: Mapping[str, Any],
    config: StageConfig,
    parents: Mapping[str, Ref],
    task: Task | None,
    store: ModelStore,
) -> Outcome:
    """Work on a call beside others: without the lock, until there is something to store. Who comes second finds it."""
    start = time.monotonic()
    if not store.has(ref):
        entries = {role: store.get(parent) for role, parent in parents.items()}
        with TemporaryDirectory(prefix="secateur-") as folder:
            call = StageCall(config=config, parents=entries, scratch=Path(folder), optional_task=task)
            result = STAGES[record["stage"]].function(call)
            seconds = time.monotonic() - start
            with _local(store).locked(ref):
                if not store.has(ref):
                    return Outcome(store.put(ref, record, result, seconds), False, seconds)
    return Outcome(store.get(ref), True, store.record(ref)["seconds"])


def _processes_for(stage: str) -> Processes:
    """Return the processes that run a stage together.

    Raises:
        ValueError: There are several, and the stage has no use for them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes()
    if not STAGES[stage].extra.get("is_parallel"):
        known = ", ".join(name for name in STAGES if STAGES[name].extra.get("is_parallel"))
        raise ValueError(
            f"stage {stage!r} runs in one process, WORLD_SIZE is {os.environ['WORLD_SIZE']}: start it without a "
            f"launcher. Several processes can run: {known}."
        )
    return join()


def _order(ref: Ref, is_there: bool) -> bytes:
    return f"{'leave' if is_there else 'make'} {ref}".encode()


def _work_along(ref: Ref, config: StageConfig, task: Task | None, processes: Processes) -> Outcome:
    """Do what the first process does, with a scratch folder that nobody reads; the entry is in no store."""
    order = processes.bytes_of_first(b"")
    if order == _order(ref, True):
        return Outcome(Entry(ref=ref, report={}), True, 0.0)
    if order != _order(ref, False):
        raise ValueError(
            f"process {processes.rank} was asked for {ref}, the first one was told to {order.decode()}: give all "
            f"processes the same stage, configuration and task."
        )
    start = time.monotonic()
    with TemporaryDirectory(prefix="secateur-") as folder:
        call = StageCall(config=config, parents={}, scratch=Path(folder), optional_task=task)
        result = STAGES[ref.rpartition("-")[0]].function(call)
    return Outcome(Entry(ref=ref, report=result.report, loaded=result.model), False, time.monotonic() - start)


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
