"""One stored entry as MLflow sees it: a run, its numbers, its model, and where both came from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.layout import RECORD
from compress.core.model import sha256_of
from compress.core.stage import Ref
from compress.store import LocalStore
from deploy.tracking.destination import (
    PARENT_TAG,
    Destination,
    clipped,
    experiment_id,
    find_run,
    quoted,
    surrounding_tags,
)
from deploy.tracking.names import LABEL_TAG, metrics_of, params_of, recipe_sha256
from deploy.tracking.parents import resolve_parent
from deploy.tracking.sampler import Sample
from deploy.tracking.upload import check_stored, upload_model, upload_to_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

REF_TAG = "secateur.ref"
#: Set last: where the complete entry lies ("models:/m-…" or "runs:/…/entry").
ENTRY_TAG = "secateur.entry"
#: SHA-256 of the file among an entry's or a package's that holds the hashes of the others.
DIGEST_TAG = "secateur.sha256"
#: Where MLflow looks for the tables of a run.
TABLES_TAG = "mlflow.loggedArtifacts"


def push_entry(
    client: MlflowClient,
    destination: Destination,
    local: LocalStore,
    ref: Ref,
    *,
    samples: Sequence[Sample] = (),
) -> str:
    """Write one entry of the local store to MLflow and return the id of its run. Safe to repeat.

    Final numbers go onto the parent run too, except those of one budget of several: which of them are the pipeline's
    is known when it closes (`deploy.report.final_metrics`).

    Args:
        client: Connected to the destination.
        destination: Server, experiment, parent run.
        local: Holds the entry, and its parents' records as far as known.
        ref: The entry.
        samples: System metrics of the time when the stage ran.
    """
    record = local.record(ref)
    parent = resolve_parent(client, destination.parent_run, local.root / "pending", destination)
    experiment = experiment_id(client, replace(destination, parent_run=parent))
    tags = clipped(surrounding_tags() | entry_tags(local, ref, record) | dict(destination.tags))
    label = destination.tags.get(LABEL_TAG, "")
    run_id = destination.run_id or _run_of(client, experiment, parent, ref, record, label)
    _log_facts(client, run_id, record, tags, samples)
    _log_files(client, run_id, local.folder(ref), record)
    if "model/manifest.json" in record["files"]:
        model = _logged_model(client, experiment, run_id, local.folder(ref), record, tags)
        location = f"models:/{model.model_id}"
        _log_output(client, run_id, model, record)
    else:
        location = f"runs:/{run_id}/entry"
        upload_to_run(client, run_id, local.folder(ref), "entry")
        client.set_tag(run_id, DIGEST_TAG, _checked(client, location, local.folder(ref), ref))
    _log_lineage(client, run_id, record)
    if parent and parent != run_id and not label and is_final(record["report"]):
        _log_metrics(client, parent, metrics_of(record["report"]), _created_ms(record))
    client.set_tag(run_id, ENTRY_TAG, location)
    if not destination.run_id:
        client.set_terminated(run_id, "FINISHED", _created_ms(record))
    return run_id


def is_final(report: Mapping[str, Any]) -> bool:
    """Return whether a report holds the numbers that a pipeline is judged by."""
    return "models" in report or "passed" in report


def entry_tags(local: LocalStore, ref: Ref, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags by which an entry's run and model are found."""
    identity = record["identity"]
    report, task = record["report"], identity.get("task") or {}
    tags = {
        REF_TAG: ref,
        "secateur.stage": identity["stage"],
        "secateur.parents": json.dumps(identity["parents"], sort_keys=True) if identity["parents"] else "",
        "secateur.recipe_sha256": recipe_sha256(recipe_of(local, ref)),
        "secateur.task": (task.get("piece") or {}).get("name", ""),
        "secateur.data_digest": task.get("digest", ""),
    }
    for role, parent in identity["parents"].items():
        tags[f"secateur.parent.{role}"] = parent
    if "passed" in report:
        tags["secateur.verdict"] = "pass" if report["passed"] else "fail"
    for part in ("int8", "cascade", "tensorrt"):
        status = report.get(part) or ""
        tags[f"secateur.{part}"] = status if isinstance(status, str) else status.get("status", "")
    return {name: value for name, value in tags.items() if value}


def recipe_of(local: LocalStore, ref: str) -> dict[str, Any]:
    """Return what was done to make an entry, back to its first ancestor: stages and options, no data."""
    if not local.has(Ref(ref)):
        return {"ref": ref}
    identity = local.record(Ref(ref))["identity"]
    parents = {role: recipe_of(local, parent) for role, parent in identity["parents"].items()}
    return {"stage": identity["stage"], "config": identity["config"], "parents": parents}


def find_model(client: MlflowClient, experiments: Sequence[str], tags: Mapping[str, str]) -> LoggedModel | None:
    """Return the newest complete LoggedModel that carries all `tags`, or None."""
    return next((model for model in _tagged(client, experiments, tags) if str(model.status).endswith("READY")), None)


def unfinished_model(client: MlflowClient, experiment: str, tags: Mapping[str, str], run_id: str) -> LoggedModel | None:
    """Return the LoggedModel that an interrupted upload of the same run left, to go on with, or None."""
    found = _tagged(client, [experiment], tags)
    mine = (model for model in found if model.source_run_id == run_id)
    return next((model for model in mine if str(model.status).endswith("PENDING")), None)


def _tagged(client: MlflowClient, experiments: Sequence[str], tags: Mapping[str, str]) -> Sequence[LoggedModel]:
    wanted = " AND ".join(f"tags.`{name}` = '{quoted(value)}'" for name, value in tags.items())
    newest_first = [{"field_name": "creation_timestamp", "ascending": False}]
    return client.search_logged_models(list(experiments), filter_string=wanted, order_by=newest_first)


def _run_of(client: MlflowClient, experiment: str, parent: str, ref: Ref, record: Mapping[str, Any], label: str) -> str:
    tags = {REF_TAG: str(ref)} | ({PARENT_TAG: parent} if parent else {})
    if found := find_run(client, experiment, tags):
        return found
    start_ms = _created_ms(record) - int(record["seconds"] * 1000)
    run = client.create_run(experiment, start_time=start_ms, run_name=_run_name(ref, record, label), tags=tags)
    return str(run.info.run_id)


def _run_name(ref: Ref, record: Mapping[str, Any], label: str) -> str:
    budget = label or str(record["identity"]["config"].get("budget", ""))
    return "-".join(part for part in (record["identity"]["stage"], budget, ref[-4:]) if part)


def _log_facts(
    client: MlflowClient,
    run_id: str,
    record: Mapping[str, Any],
    tags: Mapping[str, str],
    samples: Sequence[Sample],
) -> None:
    from mlflow.entities import Param, RunTag

    params = params_of({"stage": record["identity"]["stage"], **record["identity"]["config"]})
    known = client.get_run(run_id).data.params
    new = [Param(name, value) for name, value in params.items() if name not in known]
    note = f"Entry `{record['ref']}`.\n\n```\n{json.dumps(record['identity'], indent=1)}\n```\n"
    marks = [RunTag(name, value) for name, value in {**tags, "mlflow.note.content": note[:5000]}.items()]
    client.log_batch(run_id, params=new, tags=marks)
    numbers = metrics_of(record["report"]) | {"time/stage_s": float(record["seconds"])}
    _log_metrics(client, run_id, numbers, _created_ms(record))
    _log_samples(client, run_id, samples)


def _log_metrics(client: MlflowClient, run_id: str, numbers: Mapping[str, float], when_ms: int, **more: Any) -> None:
    from mlflow.entities import Metric

    client.log_batch(run_id, metrics=[Metric(name, value, when_ms, 0, **more) for name, value in numbers.items()])


def _log_samples(client: MlflowClient, run_id: str, samples: Sequence[Sample]) -> None:
    from mlflow.entities import Metric

    steps: dict[str, int] = {}
    metrics = []
    for name, when_ms, value in samples:
        steps[name] = steps.get(name, -1) + 1
        metrics.append(Metric(name, float(value), int(when_ms), steps[name]))
    for start in range(0, len(metrics), 500):
        client.log_batch(run_id, metrics=metrics[start : start + 500])


def _log_files(client: MlflowClient, run_id: str, folder: Path, record: Mapping[str, Any]) -> None:
    from deploy.report.figures import figures_of

    client.log_dict(run_id, dict(record["identity"]), "recipe.json")
    client.log_dict(run_id, dict(record["report"]), "report.json")
    for name in record["files"]:
        if name.startswith("files/figures/"):
            client.log_artifact(run_id, str(folder / name), "figures")
    for name, svg in figures_of(record["report"]).items():
        client.log_text(run_id, svg, f"figures/{name}.svg")
    if trials := record["report"].get("trials"):
        _log_table(client, run_id, trials, "trials.json")


def _log_table(client: MlflowClient, run_id: str, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Write rows as the table that MLflow shows; `client.log_table` would append them to the one before."""
    columns = sorted({key for row in rows for key in row})
    data = [[_cell(row.get(key)) for key in columns] for row in rows]
    client.log_dict(run_id, {"columns": columns, "data": data}, name)
    known = json.loads(client.get_run(run_id).data.tags.get(TABLES_TAG, "[]"))
    if (fact := {"path": name, "type": "table"}) not in known:
        client.set_tag(run_id, TABLES_TAG, json.dumps([*known, fact]))


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _logged_model(
    client: MlflowClient, experiment: str, run_id: str, folder: Path, record: Mapping[str, Any], tags: Mapping[str, str]
) -> LoggedModel:
    from mlflow.entities import LoggedModelStatus
    from mlflow.models import Model as Description

    wanted = {REF_TAG: record["ref"]}
    if (found := find_model(client, [experiment], wanted)) is not None:
        return found
    identity = record["identity"]
    model = unfinished_model(client, experiment, wanted, run_id) or client.create_logged_model(
        experiment,
        name=record["ref"],
        source_run_id=run_id,
        tags=dict(tags),
        params=params_of({"stage": identity["stage"], **identity["config"]}),
        model_type="secateur",
    )
    description = Description(model_id=model.model_id, run_id=run_id, signature=signature_of(folder / "model"))
    description.add_flavor("secateur", format=1, ref=record["ref"], model="model", record="entry.json")
    upload_model(client, model, folder)
    with tempfile.TemporaryDirectory() as scratch:
        description.save(str(Path(scratch) / "MLmodel"))
        client.log_model_artifacts(model.model_id, scratch)
    digest = _checked(client, f"models:/{model.model_id}", folder, record["ref"])
    client.set_logged_model_tags(model.model_id, {DIGEST_TAG: digest})
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _checked(client: MlflowClient, location: str, folder: Path, ref: str) -> str:
    """Return the SHA-256 of an entry's record, after the whole entry was read back unchanged."""
    from deploy.tracking.fetch import check_entry

    digest = sha256_of(folder / RECORD)
    check_stored(client.tracking_uri, location, lambda stored: check_entry(stored, ref, digest))
    return digest


def signature_of(folder: Path) -> ModelSignature:
    """Return what goes in and out of the model in a folder: a preprocessed batch, and its logits."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from deploy.export.onnx_from_model import INPUT, OUTPUT

    facts = json.loads((folder / "input.json").read_text())
    number = np.dtype(np.float32)
    return ModelSignature(
        inputs=Schema([TensorSpec(number, (-1, *facts["shape"]), INPUT)]),
        outputs=Schema([TensorSpec(number, (-1, len(facts["class_names"])), OUTPUT)]),
    )


def _log_output(client: MlflowClient, run_id: str, model: LoggedModel, record: Mapping[str, Any]) -> None:
    from mlflow.entities import LoggedModelOutput

    outputs = client.get_run(run_id).outputs
    if model.model_id in {item.model_id for item in (outputs.model_outputs if outputs else [])}:
        return
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    if numbers := metrics_of(record["report"]):
        _log_metrics(client, run_id, numbers, _created_ms(record), model_id=model.model_id)


def _log_lineage(client: MlflowClient, run_id: str, record: Mapping[str, Any]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

    identity = record["identity"]
    experiments = [item.experiment_id for item in client.search_experiments()]
    parents = {role: find_model(client, experiments, {REF_TAG: ref}) for role, ref in identity["parents"].items()}
    for role, model in parents.items():
        if model is not None:
            client.set_tag(run_id, f"secateur.parent_model_id.{role}", model.model_id)
    known = client.get_run(run_id).inputs
    seen = {item.model_id for item in (known.model_inputs if known else [])}
    ids = {model.model_id for model in parents.values() if model is not None} - seen
    task, data = identity.get("task"), []
    if task and not (known and known.dataset_inputs):
        source = json.dumps({"task": task["piece"]}, sort_keys=True)
        facts = Dataset(name=task["piece"]["name"], digest=task["digest"][:36], source_type="secateur", source=source)
        data.append(DatasetInput(facts, [InputTag("mlflow.data.context", identity["stage"])]))
    if ids or data:
        client.log_inputs(run_id, datasets=data, models=[LoggedModelInput(model_id) for model_id in sorted(ids)])


def _created_ms(record: Mapping[str, Any]) -> int:
    return int(datetime.fromisoformat(record["created"]).timestamp() * 1000)
