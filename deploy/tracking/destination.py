"""Where a stage's numbers go: server, experiment and run, found or made."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.tracking.connection import artifact_location, refuse_password
from deploy.tracking.names import TAG_LENGTH
from deploy.tracking.troubles import Unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
PARENT_KEY = "secateur.parent_key"
#: Beginning of the name of a parent run that could not be opened yet.
OFFLINE = "pending-"

#: Environment variable -> tag, for facts that only the surroundings know.
ENVIRONMENT_TAGS = {
    "KFP_RUN_ID": "kfp.run_id",
    "SECATEUR_IMAGE_DIGEST": "image.digest",
}


#: Makes MLflow's pages show runs and models first, as for training, not traces.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Which runs a stage is logged to.

    Attributes:
        uri: Tracking and registry URI.
        experiment: Name of the experiment when no run decides it; one a model and data set compares best.
        parent_run: Run of the whole pipeline; empty for none, "pending-…" for one that was opened offline.
        run_id: A run that somebody else opened for this stage (Kubeflow's MLflow plugin); never closed here.
        tags: Set on the run and on its model.
    """

    uri: str
    experiment: str = "secateur"
    parent_run: str = ""
    run_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_password(self.uri)

    @classmethod
    def here(cls, uri: str, **more: Any) -> Destination:
        """Return a destination that respects the run that the environment gives (MLFLOW_RUN_ID)."""
        return cls(uri=uri, run_id=os.environ.get("MLFLOW_RUN_ID", ""), **more)

    def as_json(self) -> dict[str, Any]:
        """JSON with what the constructor needs."""
        return asdict(self) | {"tags": dict(self.tags)}


def experiment_id(client: MlflowClient, destination: Destination) -> str:
    """Return the id of the experiment: that of the run given, of the parent run, or by name, made on first use."""
    from mlflow.exceptions import MlflowException

    parent = "" if destination.parent_run.startswith(OFFLINE) else destination.parent_run
    if known := destination.run_id or parent:
        return str(client.get_run(known).info.experiment_id)
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    found = client.get_experiment_by_name(destination.experiment)
    if found is None:
        try:
            place = artifact_location(destination.uri)
            return str(client.create_experiment(destination.experiment, place, tags=EXPERIMENT_TAGS))
        except MlflowException:
            found = client.get_experiment_by_name(destination.experiment)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise Unreachable(
            f"experiment {destination.experiment!r} at {destination.uri} is deleted: run `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`, or choose another name."
        )
    return str(found.experiment_id)


def surrounding_tags() -> dict[str, str]:
    """Return git.commit, kfp.run_id and image.digest, as far as they are known."""
    tags = {tag: os.environ[name] for name, tag in ENVIRONMENT_TAGS.items() if os.environ.get(name)}
    if commit := os.environ.get("GIT_COMMIT") or _commit():
        tags["git.commit"] = commit
    return tags


def clipped(tags: Mapping[str, Any]) -> dict[str, str]:
    """Return tags as text that MLflow accepts, empty ones left out."""
    return {name: str(value)[:TAG_LENGTH] for name, value in tags.items() if value not in (None, "")}


def find_run(client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> str | None:
    """Return the newest run of an experiment that carries all `tags`, or None."""
    wanted = " AND ".join(f"tags.`{name}` = '{quoted(value)}'" for name, value in tags.items())
    runs = client.search_runs(
        [experiment], filter_string=wanted, max_results=1, order_by=["attributes.start_time DESC"]
    )
    return str(runs[0].info.run_id) if runs else None


def quoted(value: str) -> str:
    """Return a value that may stand between quotation marks in a search of MLflow."""
    if "'" in value:
        raise ValueError(f"{value!r} cannot be searched for: leave out the quotation mark.")
    return value


@functools.cache
def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
