"""The run of a whole pipeline: opened first, closed with a verdict, also when MLflow was away in between."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.layout import write_json
from deploy.tracking.connection import retrying
from deploy.tracking.destination import (
    OFFLINE,
    PARENT_KEY,
    PARENT_TAG,
    Destination,
    clipped,
    experiment_id,
    find_run,
    surrounding_tags,
)
from deploy.tracking.troubles import Unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("secateur.mlflow")

OWNER_TAG = "secateur.opened_by"


def open_parent(
    uri: str, experiment: str, name: str, tags: Mapping[str, str] | None = None, *, pending: Path | None = None
) -> str:
    """Return the id of a new run for a whole pipeline.

    Inside Kubeflow's MLflow plugin the pipeline's run exists already and is returned. When MLflow cannot be
    reached, an id that begins with "pending-" is returned; every other function here understands it.

    Args:
        uri: Tracking URI.
        experiment: Name of the experiment.
        name: What the run is called.
        tags: Set on the run.
        pending: Folder that remembers the run until MLflow is back (`<store>/pending`).
    """
    destination = Destination.here(uri, experiment=experiment, tags=dict(tags or {}))
    key = f"{OFFLINE}{uuid.uuid4().hex}"

    def work(client: MlflowClient) -> str:
        if destination.run_id:
            return _given_parent(client, destination)
        return _create(client, destination, name, key, int(time.time() * 1000))

    try:
        return retrying(uri, work)
    except Unreachable as error:
        log.warning("%s The pipeline goes on; its results stay in the local store and are pushed later.", error)
        if pending is not None:
            opened = {"name": name, "destination": destination.as_json(), "start_ms": int(time.time() * 1000)}
            write_json(pending / f"{key}.json", {"open": opened})
        return key


def close_parent(
    uri: str,
    run_id: str,
    *,
    verdict: str,
    status: str = "FINISHED",
    metrics: Mapping[str, float] | None = None,
    note_markdown: str = "",
    artifacts: Mapping[str, Path] | None = None,
    pending: Path | None = None,
) -> bool:
    """Write the verdict and the final numbers on the pipeline's run and close it; return whether MLflow took it.

    Args:
        uri: Tracking URI.
        run_id: What `open_parent` returned; "" is ignored.
        verdict: "pass", "fail" or "error"; becomes the tag secateur.verdict.
        status: FINISHED, FAILED or KILLED.
        metrics: Under the fixed names (`metrics_of`, `deploy.report.final_metrics`).
        note_markdown: Shown on top of the run's page.
        artifacts: Files by their folder on the run ("report/index.html" is logged into "report").
        pending: Folder that remembers all this until MLflow is back.
    """
    if not run_id:
        return False
    closing = {
        "verdict": verdict,
        "status": status,
        "metrics": dict(metrics or {}),
        "note": note_markdown,
        "artifacts": {name: str(Path(path).absolute()) for name, path in (artifacts or {}).items()},
    }
    try:
        here = Destination(uri=uri)
        retrying(uri, lambda client: apply_closing(client, resolve_parent(client, run_id, pending, here), closing))
    except Unreachable as error:
        log.warning("%s The verdict %r is kept for later.", error, verdict)
        if pending is not None:
            path = pending / f"{OFFLINE}{run_id.removeprefix(OFFLINE)}.json"
            known = json.loads(path.read_text()) if path.is_file() else {}
            write_json(path, known | {"run_id": run_id, "uri": uri, "close": closing})
        return False
    return True


def resolve_parent(client: MlflowClient, run_id: str, pending: Path | None, fallback: Destination) -> str:
    """Return the real id of a parent run; one that was opened offline is made now, once.

    Args:
        client: Connected.
        run_id: What `open_parent` returned.
        pending: Folder that `open_parent` was given.
        fallback: Where to make the run when that folder remembers nothing of it.
    """
    if not run_id.startswith(OFFLINE):
        return run_id
    path = pending / f"{run_id}.json" if pending is not None else None
    remembered = json.loads(path.read_text()) if path is not None and path.is_file() else {}
    opened = remembered.get("open", {})
    destination = replace(Destination(**opened["destination"]), uri=fallback.uri) if opened else fallback
    found = find_run(client, experiment_id(client, destination), {PARENT_KEY: run_id})
    start_ms = opened.get("start_ms", int(time.time() * 1000))
    return found or _create(client, destination, opened.get("name", "pipeline"), run_id, start_ms)


def apply_closing(client: MlflowClient, run_id: str, closing: Mapping[str, Any]) -> None:
    """Write what `close_parent` was told onto a run that exists."""
    from mlflow.entities import Metric, RunTag

    now = int(time.time() * 1000)
    tags = clipped({"secateur.verdict": closing["verdict"], "mlflow.note.content": closing["note"]})
    client.log_batch(
        run_id,
        metrics=[Metric(name, float(value), now, 0) for name, value in closing["metrics"].items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    for name, path in closing["artifacts"].items():
        if Path(path).is_file():
            client.log_artifact(run_id, path, str(Path(name).parent) if "/" in name else None)
    if client.get_run(run_id).data.tags.get(OWNER_TAG) == "secateur":
        client.set_terminated(run_id, closing["status"])


def _create(client: MlflowClient, destination: Destination, name: str, key: str, start_ms: int) -> str:
    tags = {"secateur.role": "pipeline", OWNER_TAG: "secateur", PARENT_KEY: key}
    everything = clipped({**surrounding_tags(), **tags, **destination.tags})
    run = client.create_run(experiment_id(client, destination), start_time=start_ms, run_name=name, tags=everything)
    return str(run.info.run_id)


def _given_parent(client: MlflowClient, destination: Destination) -> str:
    run = client.get_run(destination.run_id)
    parent = str(run.data.tags.get(PARENT_TAG) or run.info.run_id)
    for name, value in clipped({**surrounding_tags(), **destination.tags}).items():
        client.set_tag(parent, name, value)
    return parent
