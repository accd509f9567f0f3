"""What the components of stages call: one stage of a pipeline run, from texts to texts.

Work that is finished is found again without importing torch or MLflow: the literal request leads
to the entry that answered it, as long as the library's source is the same. Any other request goes
through `run_stage`, whose identity knows better.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.layout import has_entry, read_record, request_key, write_json
from deploy.worker import delegated

if TYPE_CHECKING:
    from deploy.mlflow_store import MlflowStore

OFF = "off"
#: Kubeflow's identity of the pipeline run, set where it may not be an argument that the cache looks at.
PIPELINE_RUN = "SECATEUR_PIPELINE_RUN"


def workspace_folder(workspace: str) -> Path:
    """Return the folder that a run works in: the argument, or SECATEUR_WORKSPACE, or `.secateur`."""
    name = workspace or os.environ.get("SECATEUR_WORKSPACE", ".secateur")
    if "://" in name:
        raise ValueError(
            f"workspace {name!r}: name a folder that all steps share; models go to MLflow by tracking_uri."
        )
    return Path(name).absolute()


def open_store(
    workspace: str, *, tracking_uri: str = "", parent_run: str = "", tags: Mapping[str, str] | None = None
) -> MlflowStore:
    """Return the workspace's local store, mirrored to MLflow: where it is told, or where the parent run was opened."""
    from compress.store import LocalStore
    from deploy.mlflow_store import MlflowStore

    folder = workspace_folder(workspace)
    opened = (json.loads(path.read_text())["uri"] for path in states_of(workspace, parent_run))
    uri = tracking_uri or next(opened, "") or os.environ.get("MLFLOW_TRACKING_URI")
    uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
    return MlflowStore(LocalStore(folder / "store"), uri, parent_run=parent_run, tags=tags)


def state_path(workspace: str, pipeline_run: str) -> Path:
    """Return the file that the steps of one run of the pipeline share."""
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in pipeline_run) or "run"
    return workspace_folder(workspace) / "runs" / f"{name}.json"


def states_of(workspace: str, parent_run: str) -> list[Path]:
    """Return the files that belong to an MLflow run of the pipeline; none for no run."""
    paths = sorted((workspace_folder(workspace) / "runs").glob("*.json")) if parent_run else []
    return [path for path in paths if json.loads(path.read_text())["parent_run"] == parent_run]


def surrounding_parent(workspace: str) -> str:
    """Return the MLflow run of the pipeline that this process belongs to, or nothing."""
    path = state_path(workspace, os.environ.get(PIPELINE_RUN, ""))
    return str(json.loads(path.read_text())["parent_run"]) if path.is_file() else ""


def run_step(
    stage: str,
    *,
    config: str,
    parents: Mapping[str, str],
    task: str,
    workspace: str,
    parent_run: str,
    label: str = "",
    when_off: str = "model",
) -> dict[str, Any]:
    """Run one stage, or find its result.

    Args:
        stage: Name of a registered stage.
        config: The stage's configuration as JSON, or "off" to leave the stage out.
        parents: Refs by role; empty ones are left out.
        task: JSON that `resolve` made (piece and digest).
        workspace: Folder of the local store and MLflow's default database.
        parent_run: MLflow run that this step belongs to; empty: found by SECATEUR_PIPELINE_RUN, or none.
        label: Name of the budget, for people: part of the run's name in MLflow and a tag.
        when_off: Role whose ref is passed on when the stage is off; empty for no ref at all.

    Returns:
        ref, reused, seconds, report, folder and metrics (the report's numbers, flat).
    """
    given = {role: ref for role, ref in parents.items() if ref}
    if config.strip() == OFF:
        return {**_nothing(), "ref": given.get(when_off, ""), "report": {"note": f"{stage} is off"}}
    folder = workspace_folder(workspace)
    request = {"stage": stage, "config": config, "parents": given, "task": task}
    memo = folder / "requests" / f"{request_key(request)}.json"
    root = folder / "store"
    ref = json.loads(memo.read_text())["ref"] if memo.is_file() else ""
    if ref and has_entry(root, ref):
        return _step(root, ref, is_reused=True)
    print(f"{stage}: starting", file=sys.stderr, flush=True)
    found = make(request, workspace, parent_run, label)
    write_json(memo, {"ref": found["ref"], "request": request})
    return _step(root, found["ref"], is_reused=found["reused"])


@delegated
def make(request: Mapping[str, Any], workspace: str, parent_run: str, label: str = "") -> dict[str, Any]:
    """Run the stage that `request` (stage, config, parents, task) asks for, unless its identity is known."""
    from compress.core.stage import Ref
    from compress.run import run_stage, task_of
    from deploy.tracking.names import LABEL_TAG

    tags = {LABEL_TAG: label} if label else {}
    store = open_store(workspace, parent_run=parent_run or surrounding_parent(workspace), tags=tags)
    refs = {role: Ref(ref) for role, ref in request["parents"].items()}
    task = task_of(request["task"]) if request["task"] else None
    outcome = run_stage(request["stage"], request["config"], refs, task, store)
    return {"ref": outcome.entry.ref, "reused": outcome.is_reused}


def _nothing() -> dict[str, Any]:
    return {"ref": "", "reused": True, "seconds": 0.0, "report": {}, "folder": "", "metrics": {}}


def _step(root: Path, ref: str, *, is_reused: bool) -> dict[str, Any]:
    record = read_record(root, ref)
    return {
        "ref": ref,
        "reused": is_reused,
        "seconds": record["seconds"],
        "report": record["report"],
        "folder": str(root / "entries" / ref),
        "metrics": flat_numbers(record["report"]),
    }


def flat_numbers(report: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a report, nested names joined by a slash; lists are left out.

    >>> flat_numbers({"cost": {"macs": 10}, "passed": True, "note": "x"})
    {'cost/macs': 10.0, 'passed': 1.0}
    """
    found: dict[str, float] = {}
    for key, value in report.items():
        if isinstance(value, Mapping):
            found |= flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = float(value)
    return found
