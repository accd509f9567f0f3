"""The whole pipeline as `make demo` runs it, on any MLflow, and what it left there that no clock decides."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.storage.servers import bare_environment

ROOT = Path(__file__).parents[2]
FIT = {"epochs": 1, "batch_size": 64}
#: Every stage, as little of each as there can be.
SMALL = {
    "task": {"name": "digits", "limit": 256},
    "train": {"builder": {"name": "resnet_cifar", "depth": 8, "width": 8}, **FIT, "epochs": 3},
    "model_name": "digits",
    "budgets": [
        {
            "name": "half",
            "search": {"budget": "macs=0.8", "num_trials": 2},
            "prune": {"budget": "macs=0.5", **FIT},
            "distill": FIT,
            "finetune_quant": FIT,
            "export": {"rounds": 3, "variants": ["unsigned_per_tensor"]},
            "cascade": {"rounds": 3},
            "evaluate": {"rounds": 3},
            "gate": {"accuracy_drop_max": 1.0, "speedup_min": 0.0},
        }
    ],
}
EXPERIMENT = "secateur-digits"
#: Parts of names whose numbers a clock or the machine decides; INT8 files are chosen by their latency, and the
#: verdict of the gate is on accuracy and on measured speed-up.
TIMED = ("latency/", "speedup", "time/", "system/", "memory/", "int8/", "throughput/", "gate/passed")


def command(preset: str, workspace: Path, uri: str) -> list[str]:
    words = [sys.executable, "-m", "pipelines.local", "--preset", preset, "--workspace", str(workspace)]
    return words + (["--tracking-uri", uri] if uri else [])


def run(preset: str, workspace: Path, uri: str = "", environment: Mapping[str, str] | None = None) -> str:
    """Run the pipeline to its end and return what it printed."""
    done = subprocess.run(
        command(preset, workspace, uri),
        cwd=ROOT,
        env=bare_environment() | dict(environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    log = workspace / "dag.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text()[-4000:] if log.is_file() else "")
    return done.stdout


def runs(client: Any) -> list[Any]:
    found = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([found.experiment_id])) if found else []


def parent(client: Any) -> Any:
    """Return the run of the pipeline, of which there must be one."""
    (found,) = [run for run in runs(client) if run.data.tags.get("secateur.role") == "pipeline"]
    return found


def children(client: Any) -> dict[str, Any]:
    """Return the runs of the stages by entry; each entry has one."""
    found = [run for run in runs(client) if "mlflow.parentRunId" in run.data.tags]
    by_ref = {run.data.tags["secateur.ref"]: run for run in found}
    assert len(by_ref) == len(found), "an entry has two runs"
    return by_ref


def is_timed(name: str) -> bool:
    return any(part in name for part in TIMED)


def numbers(run: Any) -> dict[str, float]:
    """Return the metrics of a run that depend on the data and the seeds alone."""
    return {name: value for name, value in run.data.metrics.items() if not is_timed(name)}


def final_numbers(client: Any, labels: list[str]) -> dict[str, float]:
    """Return the numbers of the pipeline's run; of several students those under their own names.

    The plain names belong to the student with the largest measured speed-up, and a clock measures that.
    """
    found = numbers(parent(client))
    if len(labels) == 1:
        return found
    return {name: value for name, value in found.items() if name.split("/")[0] in (*labels, "teacher")}


def weights(workspace: Path) -> dict[str, dict[str, str]]:
    """Return SHA-256 of the weights and of the structure of every model, by entry."""
    found = {}
    for path in (workspace / "store" / "entries").glob("*/model/manifest.json"):
        facts = json.loads(path.read_text())
        found[path.parts[-3]] = {name: facts[name] for name in ("weights.safetensors", "architecture.json")}
    return found


def files(workspace: Path) -> int:
    """Return how many files all entries of a workspace hold, their records left out."""
    records = (workspace / "store" / "entries").glob("*/entry.json")
    return sum(len(json.loads(path.read_text())["files"]) for path in records)
