"""Recurring runs of Kubeflow from a file: applied by deleting and creating, because Kubeflow cannot edit them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from deploy.kubeflow import (
    LATEST,
    KubeflowError,
    everything,
    experiment_id,
    pipeline_id,
    plugins_input,
    reason_of,
    version_id,
)

if TYPE_CHECKING:
    from kfp import Client

#: The six fields of Kubeflow's cron, with the smallest and the largest number and the names that a field may hold.
FIELDS: tuple[tuple[str, int, int, str], ...] = (
    ("second", 0, 59, ""),
    ("minute", 0, 59, ""),
    ("hour", 0, 23, ""),
    ("day of month", 1, 31, ""),
    ("month", 1, 12, "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"),
    ("day of week", 0, 6, "SUN MON TUE WED THU FRI SAT"),
)
#: Marks the line of a recurring run's description that says what it was made of.
DIGEST = "secateur schedule "


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What shall run when.

    Attributes:
        name: Name of the recurring run; at most one of it exists in its namespace.
        pipeline: Name of the pipeline in Kubeflow.
        version: Name of a version, or "latest": each run takes the newest one.
        cron: Six fields, seconds first; Kubeflow reads them in UTC unless it was told otherwise.
        parameters: Inputs of the pipeline.
        experiment: Kubeflow's experiment that gets the runs.
        enabled: Whether it runs at all.
        service_account: Account of the pods; empty: Kubeflow's default.
        mlflow_plugin: Options of Kubeflow's MLflow plugin: experiment_name, experiment_id or disabled; empty: its own.
    """

    name: str
    pipeline: str
    version: str
    cron: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    experiment: str = "secateur"
    enabled: bool = True
    service_account: str = ""
    mlflow_plugin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("name", "pipeline", "version", "experiment"):
            if not str(getattr(self, key)).strip():
                raise ValueError(f"schedule: {key} is empty; write one{' (or latest)' if key == 'version' else ''}.")
        check_cron(self.cron)
        plugins_input(self.mlflow_plugin)


def keys() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of all fields of a schedule, and of those that must be written."""
    required = ("name", "pipeline", "version", "cron")
    return tuple(item.name for item in fields(Schedule)), required


def check_cron(text: str) -> None:
    """Raise ValueError unless Kubeflow (robfig/cron, seconds first) understands a cron expression.

    >>> check_cron("0 0 2 * * MON-FRI")
    """
    parts = text.split()
    if len(parts) == 5:
        raise ValueError(f"cron {text!r} has five fields: Kubeflow's cron begins with seconds; write '0 {text}'.")
    if len(parts) != 6:
        raise ValueError(
            f"cron {text!r} has {len(parts)} fields: write second, minute, hour, day of month, month, day of week, "
            "for example '0 0 2 * * *' for two o'clock every night."
        )
    for part, (what, low, high, words) in zip(parts, FIELDS, strict=True):
        for item in part.split(","):
            if trouble := _trouble(item, low, high, words.split()):
                raise ValueError(f"cron {text!r}: {what} {item!r} {trouble}.")
    if parts[0] == "*" or parts[1] == "*":
        raise ValueError(f"cron {text!r} would start a run every {'second' if parts[0] == '*' else 'minute'}: name it.")


def _trouble(item: str, low: int, high: int, words: list[str]) -> str:
    found = re.fullmatch(r"(?P<first>\*|\?|\w+)(-(?P<last>\w+))?(/(?P<step>\d+))?", item)
    if found is None:
        return "is no number, range (1-5), step (*/10), list (1,3) or *"
    start = low if found["first"] in "*?" else _number(found["first"], words, low)
    end = start if found["last"] is None else _number(found["last"], words, low)
    for number in (start, end):
        if number is None or not low <= number <= high:
            return f"lies outside {low} to {high}" + (f" ({words[0]} to {words[-1]})" if words else "")
    if found["last"] is not None and found["first"] in "*?":
        return "mixes * and a range"
    assert start is not None
    assert end is not None
    if end < start:
        return "runs backwards"
    return "has a step of zero" if found["step"] is not None and int(found["step"]) == 0 else ""


def _number(text: str, words: list[str], low: int) -> int | None:
    if text.isdigit():
        return int(text)
    return words.index(text.upper()) + low if text.upper() in words else None


def apply(client: Client, schedule: Schedule) -> dict[str, Any]:
    """Make the recurring run what the schedule says; the same schedule again changes nothing.

    A run in progress is not touched by it. Everything is looked up before anything is deleted.

    Args:
        client: Connected.
        schedule: What shall run when.

    Returns:
        id, action ("unchanged", "created" or "replaced") and deleted (ids).

    Raises:
        ValueError: No such pipeline or version; nothing was deleted.
        KubeflowError: Kubeflow refused the new one; says whether the old one is gone.
    """
    from kfp_server_api import ApiException

    body = _body(client, schedule)
    old = _named(client, schedule.name)
    if len(old) == 1 and (old[0].description or "") == body.description and _is_kept(old[0], body):
        return {"id": old[0].recurring_run_id, "action": "unchanged", "deleted": []}
    for one in old:
        client.delete_recurring_run(one.recurring_run_id)
    deleted = [one.recurring_run_id for one in old]
    try:
        made = client._recurring_run_api.recurring_run_service_create_recurring_run(recurring_run=body)
    except ApiException as error:
        gone = f"; the old one ({', '.join(deleted)}) is deleted already" if deleted else ""
        raise KubeflowError(
            f"Kubeflow refused the recurring run {schedule.name!r}: {reason_of(error)}{gone}. "
            "Nothing runs by itself now: repair it and apply again."
        ) from error
    return {"id": made.recurring_run_id, "action": "replaced" if old else "created", "deleted": deleted}


def show(client: Client, name: str) -> list[dict[str, Any]]:
    """Return what Kubeflow has under a schedule's name: none, one, or leftovers besides.

    Args:
        client: Connected.
        name: Name of the schedule.
    """
    return [
        {
            "id": one.recurring_run_id,
            "name": one.display_name,
            "status": one.status,
            "mode": one.mode,
            "cron": one.trigger.cron_schedule.cron if one.trigger and one.trigger.cron_schedule else "",
            "no_catchup": bool(one.no_catchup),
            "max_concurrency": int(one.max_concurrency or 1),
            "version_id": _version_of(one) or LATEST,
            "parameters": (one.runtime_config.parameters if one.runtime_config else None) or {},
        }
        for one in _named(client, name)
    ]


def delete(client: Client, name: str) -> list[str]:
    """Delete everything of a schedule's name and return the ids; nothing is no error.

    Args:
        client: Connected.
        name: Name of the schedule.
    """
    found = [str(one.recurring_run_id) for one in _named(client, name)]
    for one in found:
        client.delete_recurring_run(one)
    return found


def _named(client: Client, name: str) -> list[Any]:
    namespace = client.get_user_namespace() or None
    found = everything(client.list_recurring_runs, "recurring_runs", namespace=namespace)
    return [one for one in found if one.display_name == name]


def _version_of(one: Any) -> str:
    reference = one.pipeline_version_reference
    return str((reference.pipeline_version_id if reference else "") or "")


def _is_kept(old: Any, new: Any) -> bool:
    """Return whether Kubeflow still has what the description promises; somebody may have disabled it by hand."""
    return (old.mode, old.trigger.cron_schedule.cron) == (new.mode, new.trigger.cron_schedule.cron) and bool(
        old.no_catchup
    )


def _body(client: Client, schedule: Schedule) -> Any:
    import kfp_server_api as api

    pipeline = pipeline_id(client, schedule.pipeline)
    newest = version_id(client, pipeline, schedule.version)
    pinned = None if schedule.version == LATEST else newest
    made_of = json.dumps({**asdict(schedule), "pipeline_id": pipeline, "version_id": pinned}, sort_keys=True)
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    return api.V2beta1RecurringRun(
        display_name=schedule.name,
        description=f"{DIGEST}{digest}: {schedule.pipeline} {schedule.version} at {schedule.cron}",
        experiment_id=experiment_id(client, schedule.experiment),
        pipeline_version_reference=api.V2beta1PipelineVersionReference(
            pipeline_id=pipeline, pipeline_version_id=pinned
        ),
        runtime_config=api.V2beta1RuntimeConfig(parameters=dict(schedule.parameters)),
        trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=schedule.cron)),
        mode=api.RecurringRunMode.ENABLE if schedule.enabled else api.RecurringRunMode.DISABLE,
        max_concurrency="1",
        no_catchup=True,
        service_account=schedule.service_account or None,
        namespace=client.get_user_namespace() or None,
        plugins_input=plugins_input(schedule.mlflow_plugin),
    )
