"""From MLflow to a folder: entries and packages, every file checked before it is believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.layout import RECORD
from compress.core.model import CorruptModel, check_manifest, sha256_of
from compress.core.stage import ref_of
from deploy.tracking.destination import find_run
from deploy.tracking.progress import telling
from deploy.tracking.stage_run import DIGEST_TAG, ENTRY_TAG, REF_TAG, find_model
from deploy.tracking.troubles import local_error

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: What MLflow adds to a folder of artifacts.
FOREIGN = ("MLmodel", "registered_model_meta")


@dataclass(frozen=True)
class Stored:
    """A complete entry in MLflow.

    Attributes:
        location: "models:/m-…" or "runs:/…/entry".
        digest: SHA-256 of its record, which holds those of its other files; empty when nobody noted it.
    """

    location: str
    digest: str = ""


def locate(client: MlflowClient, ref: str) -> Stored | None:
    """Return where MLflow keeps the complete entry `ref`, or None."""
    experiments = [item.experiment_id for item in client.search_experiments()]
    if (model := find_model(client, experiments, {REF_TAG: ref})) is not None:
        return Stored(f"models:/{model.model_id}", (model.tags or {}).get(DIGEST_TAG, ""))
    for experiment in experiments:
        if run_id := find_run(client, experiment, {REF_TAG: ref}):
            tags = client.get_run(run_id).data.tags
            if location := tags.get(ENTRY_TAG):
                return Stored(str(location), tags.get(DIGEST_TAG, ""))
    return None


def digest_of(client: MlflowClient, model_id: str) -> str:
    """Return SHA-256 of the file that holds the hashes of a LoggedModel's other files; empty if nobody noted it."""
    return str((client.get_logged_model(model_id).tags or {}).get(DIGEST_TAG, ""))


def download(uri: str, location: str, folder: Path) -> Path:
    """Download artifacts into `folder`, which is made, and return where they lie.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with telling(f"download {location}", folder, is_growing=True):
            found = Path(download_artifacts(location, dst_path=str(folder), tracking_uri=uri, registry_uri=uri))
    except MlflowException as error:
        raise local_error(error, folder) or error from error
    for name in FOREIGN:
        (found / name).unlink(missing_ok=True)
    return found


def check_entry(folder: Path, ref: str, digest: str = "") -> dict[str, Any]:
    """Return the record of a downloaded entry, all of whose files are as recorded.

    Args:
        folder: What was downloaded.
        ref: What was asked for.
        digest: SHA-256 that the record must have, if it is known.

    Raises:
        CorruptModel: The record belongs to another entry, or a file is missing, strange or changed.
    """
    if not (folder / RECORD).is_file():
        raise CorruptModel(f"{ref}: {RECORD} is missing from the download; push the entry again.")
    record = read_hashes(folder / RECORD, digest)
    if record.get("ref") != ref or not _is_named_after(record, ref):
        raise CorruptModel(f"{ref}: the record that was downloaded is that of {record.get('ref')!r}.")
    check_files(folder, {name: facts["sha256"] for name, facts in record["files"].items()}, also=(RECORD,))
    if (folder / "model").is_dir():
        check_manifest(folder / "model")
    return record


def read_hashes(path: Path, digest: str = "") -> dict[str, Any]:
    """Return the JSON that holds the hashes of the files beside it.

    Raises:
        CorruptModel: It is not what it was when `digest` was noted, or no JSON object.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or (digest and sha256_of(path) != digest):
        raise CorruptModel(f"{path} was changed after it was saved: fetch it again.")
    return found


def check_files(
    folder: Path, digests: Mapping[str, str], *, also: tuple[str, ...] = (), is_served: bool = False
) -> None:
    """Raise CorruptModel unless `folder` holds exactly `digests` (SHA-256 by relative name) and `also`.

    With `is_served`, bytecode that Python keeps beside the scripts that a server runs is let through.
    """
    root = folder.resolve()
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    bytecode = {name for name in found if is_served and Path(name).match("__pycache__/*.pyc")}
    if strange := found - set(digests) - set(also) - bytecode:
        raise CorruptModel(
            f"{folder} holds files that nobody recorded: {', '.join(sorted(strange)[:5])}. Fetch it again."
        )
    for name, digest in digests.items():
        path = folder / name
        if not path.resolve().is_relative_to(root):
            raise CorruptModel(f"{name!r} points outside of {folder}: the record was tampered with.")
        if not path.is_file() or sha256_of(path) != digest:
            raise CorruptModel(f"{path} is missing or was changed after it was saved: fetch it again.")


def publish(partial: Path, target: Path) -> None:
    """Move a complete folder to its place in one step; one that is there already stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(partial, ignore_errors=True)


def _is_named_after(record: Mapping[str, Any], ref: str) -> bool:
    """Return whether `ref` is the name of the recorded identity.

    The identity of a stage's entry is the call that made it. That of an imported model is no call but digests of
    its content; they are not computed again here, where the files are compared with the record's hashes.
    """
    identity = record.get("identity") or {}
    return {"stage", "task"} <= set(identity) and ref == ref_of(identity)
