"""Promotion: the one step that changes what others use. Nothing moves unless the gate passed.

It is a side effect, so it is no stage and is never found in a cache; asking twice for the same promotion
changes nothing the second time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.model import sha256_of
from compress.core.stage import Ref
from compress.store import ModelStore, full_disk_named
from deploy.description import PACKAGE, read_package
from deploy.package import DEMOTED, build_package
from deploy.pull import EXAMPLE, check_package
from deploy.tracking.claim import CHAMPION, EXPECTED_TAG, LEASE_S, Claim, finish_claim
from deploy.tracking.connection import retrying
from deploy.tracking.destination import OFFLINE, Destination, clipped, experiment_id, surrounding_tags
from deploy.tracking.names import metrics_of
from deploy.tracking.registry import version_of
from deploy.tracking.stage_run import DIGEST_TAG, REF_TAG, find_model, signature_of, unfinished_model
from deploy.tracking.troubles import Unreachable
from deploy.tracking.upload import check_stored, upload_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

PACKAGE_TAG = "secateur.package"
CHALLENGER = "challenger"


@dataclass(frozen=True, kw_only=True)
class Under:
    """Where a promotion is logged.

    Attributes:
        parent_run: Run that the package is logged under.
        experiment: Used when there is no parent run.
    """

    parent_run: str = ""
    experiment: str = "secateur"


def promote(
    store: ModelStore,
    uri: str,
    name: str,
    export_ref: str,
    gate_ref: str,
    cascade_ref: str | None = None,
    engines: Sequence[str] = (),
    under: Under | None = None,
) -> dict[str, Any]:
    """Register the package of a model and make it the champion, if its gate passed and nobody else was faster.

    Args:
        store: Holds the entries.
        uri: Tracking and registry URI.
        name: Registered model to add a version to.
        export_ref: Entry with model and ONNX files.
        gate_ref: Entry with the verdict on that export.
        cascade_ref: Entry of the cascade to pack in, or None.
        engines: Further exports of the same model, for other kinds of GPU, whose engines join the package.
        under: Where it is logged; without it a run of its own in the experiment "secateur".

    Returns:
        promoted, already, name, version, previous, model_id, reasons, export (the entry that was to be promoted).

    Raises:
        ValueError: MLflow allows no such name, or one of `engines` is of another model, holds no engine or one for
            GPUs that have one already; the registry was not touched.
        StoreFull: There is no space for the package under TMPDIR; the champion is unchanged.
        OSError: The package cannot be written here; the registry was not touched.
    """
    if not name.strip() or set(name) & set("/:"):
        raise ValueError(f"{name!r} cannot name a registered model: leave out '/' and ':', which MLflow refuses.")
    gate = store.record(Ref(gate_ref))
    if reasons := _objections(store, gate, export_ref, cascade_ref):
        return _answer(name, reasons=reasons) | {"export": export_ref}
    evaluation = store.record(Ref(gate["identity"]["parents"]["evaluation"]))
    cascade = "" if gate["report"].get("cascade") == DEMOTED else cascade_ref or ""
    refs = {"export": export_ref, "gate": gate_ref, "evaluation": evaluation["ref"], "cascade": cascade}
    identity = _identity(refs, engines)
    under = under or Under()
    run = "" if under.parent_run.startswith(OFFLINE) else under.parent_run
    destination = Destination(uri=uri, experiment=under.experiment, parent_run=run)
    claim = Claim(name=name, claimant=under.parent_run or uuid.uuid4().hex, lease_s=_lease_s())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "package"
        with full_disk_named(f"the package of {name!r}", Path(scratch).parent):
            build_package(store, folder, refs, name=name, engines=engines)

        def work(client: MlflowClient) -> dict[str, Any]:
            return _move(client, destination, claim, identity, refs, evaluation["report"], folder)

        try:
            answer = retrying(uri, work)
        except Unreachable as error:
            known = (
                f"Nobody answered whether {name}@{CHAMPION} moved: run the pipeline again, which finds out"
                if claim.is_sent
                else "The champion is unchanged; run the pipeline again to promote"
            )
            answer = _answer(name, reasons=[f"{error} {known}."])
    return answer | {"export": export_ref}


def pull_commands(name: str, uri: str) -> dict[str, str]:
    """Return how to get the champion: with this project, with MLflow alone, and in Python."""
    return {
        "secateur": f"secateur pull models:/{name}@{CHAMPION} --to {name} \\\n  --uri {uri}",
        "mlflow": f"export MLFLOW_TRACKING_URI={uri}\nmlflow artifacts download -u models:/{name}@{CHAMPION} -d {name}",
        "python": (
            "from deploy.pull import load, onnx_file, pull\n\n"
            f'uri = "{uri}"\n'
            f'folder = pull("models:/{name}@{CHAMPION}", "{name}", uri=uri)\n'
            "model = load(folder)  # torch; hashes checked, no pickle\n\n"
            "import onnxruntime\n\n"
            "session = onnxruntime.InferenceSession(onnx_file(folder))"
        ),
    }


def _identity(refs: Mapping[str, str], engines: Sequence[str]) -> str:
    """Return the name of a package by what it is made of; in which order engines were named does not count."""
    made_of = dict(refs) | ({"engines": sorted(engines)} if engines else {})
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def _objections(store: ModelStore, gate: Mapping[str, Any], export_ref: str, cascade_ref: str | None) -> list[str]:
    from deploy.report.markdown import failed_reasons

    if not gate["report"].get("passed"):
        return failed_reasons(gate["report"])
    evaluation = store.record(Ref(gate["identity"]["parents"]["evaluation"]))
    judged = evaluation["identity"]["parents"].get("model")
    if judged != export_ref:
        return [f"gate {gate['ref']} judged {judged}, not {export_ref}: name the export that it judged."]
    routed = evaluation["identity"]["parents"].get("cascade")
    if cascade_ref and cascade_ref != routed:
        return [
            f"gate {gate['ref']} judged the cascade {routed or 'of none'}, not {cascade_ref}: name that one, or none."
        ]
    return []


def _lease_s() -> float:
    text = os.environ.get("SECATEUR_CLAIM_S", "")
    try:
        return float(text or LEASE_S)
    except ValueError as error:
        raise ValueError(f"SECATEUR_CLAIM_S={text!r}: write seconds, for example {LEASE_S:.0f}.") from error


def _move(
    client: MlflowClient,
    destination: Destination,
    claim: Claim,
    identity: str,
    refs: Mapping[str, str],
    report: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    name = claim.name
    before = version_of(client, name, CHAMPION)
    if before is not None and before.tags.get(PACKAGE_TAG) == identity:
        finish_claim(client, before)
        is_mine = claim.version is not None and claim.version.version == before.version
        previous = before.tags.get(EXPECTED_TAG, "")
        return _answer(name, version=before, previous=previous, already=not is_mine)
    previous = str(before.version) if before is not None else ""
    tags = {
        PACKAGE_TAG: identity,
        REF_TAG: refs["export"],
        "secateur.gate": refs["gate"],
        "secateur.cascade": refs["cascade"],
        "secateur.verdict": "pass",
    }
    model = _package(client, destination, name, clipped(surrounding_tags() | tags), report, folder)
    version = claim.stake(
        client,
        f"models:/{model.model_id}",
        expected=previous,
        run_id=model.source_run_id or "",
        tags=surrounding_tags() | tags,
        description=(folder / "README.md").read_text(),
    )
    client.set_registered_model_alias(name, CHALLENGER, version.version)
    if reason := claim.settle(client):
        return _answer(name, version=version, previous=previous, reasons=[reason], is_promoted=False)
    if parent := destination.parent_run:
        client.set_tag(parent, "secateur.promoted", f"models:/{name}/{version.version}")
    return _answer(name, version=version, previous=previous)


def _package(
    client: MlflowClient,
    destination: Destination,
    name: str,
    tags: Mapping[str, str],
    report: Mapping[str, Any],
    folder: Path,
) -> LoggedModel:
    from mlflow.entities import LoggedModelStatus, Metric
    from mlflow.models import Model as Description

    experiment = experiment_id(client, destination)
    model = find_model(client, [experiment], {PACKAGE_TAG: tags[PACKAGE_TAG]})
    if model is None:
        run_id = destination.parent_run or str(client.create_run(experiment, run_name=f"promote-{name}").info.run_id)
        package_tags = {key: value for key, value in tags.items() if key != REF_TAG}
        left = unfinished_model(client, experiment, {PACKAGE_TAG: tags[PACKAGE_TAG]}, run_id)
        model = left or client.create_logged_model(
            experiment, name=name, source_run_id=run_id, tags=package_tags, model_type="secateur-package"
        )
        package = read_package(folder)
        facts = {"format": package["format"], "model": package["model"], "onnx": package["onnx"]}
        signature = signature_of(folder / package["model"])
        description = Description(model_id=model.model_id, run_id=run_id, signature=signature)
        description.add_flavor("secateur", ref=tags[REF_TAG], example=EXAMPLE, **facts)
        description.save(str(folder / "MLmodel"))
        upload_model(client, model, folder)
        check_stored(destination.uri, f"models:/{model.model_id}", check_package)
        client.set_logged_model_tags(model.model_id, {DIGEST_TAG: sha256_of(folder / PACKAGE)})
        model = client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        numbers = [Metric(key, value, model.creation_timestamp, 0, model_id=model.model_id, run_id=run_id)
                   for key, value in metrics_of(report).items()]  # fmt: skip
        client.log_batch(run_id, metrics=numbers)
        if not destination.parent_run:
            client.set_terminated(run_id, "FINISHED")
    return model


def _answer(
    name: str,
    *,
    version: ModelVersion | None = None,
    previous: str = "",
    reasons: list[str] | None = None,
    already: bool = False,
    is_promoted: bool | None = None,
) -> dict[str, Any]:
    promoted = version is not None if is_promoted is None else is_promoted
    said = reasons or ([f"version {version.version} is the champion already"] if already and version else [])
    return {
        "promoted": promoted,
        "already": already,
        "name": name,
        "version": str(version.version) if version is not None else "",
        "previous": previous,
        "model_id": (version.source or "").removeprefix("models:/") if version is not None else "",
        "reasons": said,
    }
