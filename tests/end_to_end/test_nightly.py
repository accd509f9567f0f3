"""Four nights on a small task: new, unchanged, one that fails, teacher moved; with the components of the cluster."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TASK = {"name": "digits", "limit": 256}
FIT = {"epochs": 1, "batch_size": 64}
PRESET = {
    "task": TASK,
    "teacher": "models:/digits-teacher@champion",
    "model_name": "digits",
    "budgets": [
        {
            "name": "half",
            "search": "off",
            "prune": {"budget": "macs=0.7", **FIT},
            "distill": "off",
            "finetune_quant": "off",
            "export": {},
            "cascade": "off",
            "evaluate": {"rounds": 5, "runtimes": ["onnxruntime"]},
            "gate": {"accuracy_drop_max": 1.0, "speedup_min": 0.0},
        }
    ],
}
INFEASIBLE = {"budget": "macs=0.0001"}


def environment() -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SECATEUR_", "COVERAGE_"))
    }
    return kept | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


class Took(NamedTuple):
    """How long a night took. A test judges seconds of a processor: on a shared machine no clock is fair."""

    processor_s: float
    wall_s: float

    def __str__(self) -> str:
        return f"{self.wall_s:.1f} s ({self.processor_s:.1f} s of a processor)"


def night(folder: Path, preset: dict[str, Any]) -> tuple[subprocess.CompletedProcess[str], Took]:
    """Run one night; return what it printed and how long it took."""
    (folder / "night.json").write_text(json.dumps(preset))
    command = [sys.executable, "-m", "pipelines.local", "--pipeline", "nightly", "--preset", "night.json"]
    start_s, start_wall_s = _processor_s(), time.monotonic()
    done = subprocess.run(
        [*command, "--workspace", "w"], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    return done, Took(_processor_s() - start_s, time.monotonic() - start_wall_s)


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def teachers(folder: Path) -> tuple[str, str, Any]:
    """Train two small teachers; register the first as champion, the second beside it; return both and the client."""
    from mlflow import MlflowClient

    from compress import catalogue
    from compress.run import run_stage, task_of
    from deploy.step import open_store

    catalogue.load()
    uri = f"sqlite:///{folder / 'w' / 'mlflow.db'}"
    store = open_store(str(folder / "w"), tracking_uri=uri)
    refs = []
    for seed in (0, 1):
        config = json.dumps({"builder": {"name": "resnet_cifar", "depth": 8, "width": 8}, "seed": seed, **FIT})
        refs.append(run_stage("train", config, {}, task_of(json.dumps(TASK)), store).entry.ref)
    store.alias(refs[0], "digits-teacher@champion")
    store.alias(refs[1], "digits-teacher@next")
    return refs[0], refs[1], MlflowClient(uri, uri)


def versions(client: Any) -> list[tuple[str, str]]:
    """Return number and teacher-independent package of every version of `digits`, champion last."""
    found = client.search_model_versions("name = 'digits'", order_by=["version_number ASC"])
    return [(str(version.version), version.tags["secateur.claim"]) for version in found]


def champion(client: Any) -> str:
    return str(client.get_model_version_by_alias("digits", "champion").version)


def last_run(client: Any) -> Any:
    experiment = client.get_experiment_by_name("secateur-digits")
    found = client.search_runs([experiment.experiment_id], "tags.`secateur.role` = 'pipeline'", max_results=1)
    return found[0]


def stages_run(folder: Path) -> set[str]:
    return {path.name.rsplit("-", 1)[0] for path in (folder / "w" / "store" / "entries").iterdir()}


def entries(folder: Path) -> set[str]:
    return {path.name for path in (folder / "w" / "store" / "entries").iterdir()}


def test_four_nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    first_teacher, second_teacher, client = teachers(tmp_path)

    done, new = night(tmp_path, PRESET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tonight   the first night that ends with a verdict" in done.stdout
    assert stages_run(tmp_path) == {"train", "prune", "export", "evaluate", "gate"}
    assert champion(client) == "1"
    assert last_run(client).data.tags["secateur.verdict"] == "pass"

    before = entries(tmp_path)
    done, idle = night(tmp_path, PRESET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unchanged since the last night: nothing to do, the champion stays" in done.stdout
    assert entries(tmp_path) == before, "nothing was trained"
    ran = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and " s" in line]
    assert ran == ["tonight", "close_run"]
    assert versions(client) == [("1", "won")]
    run = last_run(client)
    assert run.data.tags["secateur.verdict"] == "unchanged"
    assert run.info.status == "FINISHED"
    assert "nothing was trained, the champion stays" in run.data.tags["mlflow.note.content"]
    assert idle.processor_s <= float(os.environ.get("SECATEUR_IDLE_NIGHT_S", "20"))

    client.set_registered_model_alias("digits-teacher", "champion", "2")
    broken = json.loads(json.dumps(PRESET))
    broken["budgets"][0]["prune"] |= INFEASIBLE
    done, _ = night(tmp_path, broken)
    assert done.returncode == 1
    assert "prune (half): " in done.stdout
    assert champion(client) == "1"
    failed = last_run(client)
    assert failed.data.tags["secateur.verdict"] == "error"
    assert failed.info.status == "FAILED"
    assert "The champion is what it was before" in failed.data.tags["mlflow.note.content"]
    assert "```" in failed.data.tags["mlflow.note.content"], "and why"

    done, moved = night(tmp_path, PRESET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"teacher changed: {first_teacher} -> {second_teacher}" in done.stdout
    added = {name.rsplit("-", 1)[0] for name in entries(tmp_path) - before}
    assert added == {"prune", "export", "evaluate", "gate"}, "recompressed, and no teacher trained"
    assert champion(client) == "2"
    assert versions(client) == [("1", "won"), ("2", "won")]
    with capsys.disabled():
        print(f"nights: new {new}, unchanged {idle}, teacher moved {moved}")
