"""MlflowStore: what is mirrored, what comes back, and what happens while MLflow is away."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.core.model import CorruptModel
from compress.core.registry import UnknownName
from compress.core.stage import Ref
from compress.store import LocalStore
from deploy.mlflow_store import MlflowStore, flush, pending_refs, push_pending
from deploy.tracking import Unreachable, close_parent, open_parent
from deploy.tracking.connection import connected
from tests.deploy.mlflow_server import free_port, mlflow_server
from tests.deploy.stored_run import evaluation_report, fresh_uri, put, put_run
from tests.toys import toy_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri, uri)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECATEUR_MLFLOW_TOTAL_S", "1.5")
    monkeypatch.setenv("SECATEUR_MLFLOW_FIRST_DELAY_S", "0.1")


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MlflowStore, dict[str, Ref], str]]:
    """A store on SQLite with one whole run under a parent."""
    folder = tmp_path_factory.mktemp("mirrored")
    uri = fresh_uri(folder)
    parent = open_parent(uri, "secateur-toy", "demo", {"kfp.run_id": "k-1"})
    store = MlflowStore(LocalStore(folder / "store"), uri, parent_run=parent)
    return store, put_run(store, folder / "files"), parent


def runs_of(uri: str, experiment: str) -> dict[str, Any]:
    client = client_of(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {run.data.tags.get("secateur.ref", "parent"): client.get_run(run.info.run_id) for run in found}


def test_every_entry_is_a_finished_child_run_with_fixed_names(mirrored: Any) -> None:
    store, refs, parent = mirrored
    runs = runs_of(store.uri, "secateur-toy")
    assert set(runs) == {*refs.values(), "parent"}
    prune = runs[refs["prune"]]
    assert prune.info.status == "FINISHED"
    assert prune.data.tags["mlflow.parentRunId"] == parent
    assert prune.data.tags["secateur.parent.model"] == refs["train"]
    assert prune.data.params == {"stage": "prune", "budget": "macs=0.5", "criterion.name": "taylor"}
    assert prune.data.metrics["quality/after_cut"] == 0.4
    assert prune.data.metrics["size/macs_m"] == 2.0
    assert "system/cpu_utilization_percentage" in prune.data.metrics
    assert len(prune.data.tags["secateur.recipe_sha256"]) == 64


def test_lineage_and_data_are_inputs_and_the_model_is_an_output(mirrored: Any) -> None:
    store, refs, _ = mirrored
    runs = runs_of(store.uri, "secateur-toy")
    made = runs[refs["train"]].outputs.model_outputs[0].model_id
    used = runs[refs["prune"]].inputs
    assert [item.model_id for item in used.model_inputs] == [made]
    assert [item.dataset.name for item in used.dataset_inputs] == ["toy"]
    assert client_of(store.uri).get_logged_model(made).status == "READY"


def test_final_numbers_are_on_the_parent_too(mirrored: Any) -> None:
    store, _, _ = mirrored
    numbers = runs_of(store.uri, "secateur-toy")["parent"].data.metrics
    assert numbers["quality/test_top1"] == 0.94
    assert numbers["teacher/quality/test_top1"] == 0.95
    assert numbers["ratio/speedup"] == 2.0
    assert numbers["gate/passed"] == 1.0


def test_the_parent_waits_for_the_numbers_of_one_budget_of_several(tmp_path: Path) -> None:
    uri = fresh_uri(tmp_path)
    parent = open_parent(uri, "toy", "two budgets")
    store = MlflowStore(LocalStore(tmp_path / "store"), uri, parent_run=parent, tags={"secateur.budget": "half"})
    ref = put(store, "evaluate", {}, evaluation_report())
    runs = runs_of(uri, "toy")
    assert runs[ref].data.metrics["quality/test_top1"] == 0.94
    assert runs["parent"].data.metrics == {}


def test_figures_and_recipe_are_artifacts(mirrored: Any) -> None:
    store, refs, _ = mirrored
    run = runs_of(store.uri, "secateur-toy")[refs["evaluate"]]
    client = client_of(store.uri)
    paths = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"figures", "recipe.json", "report.json", "entry"} <= paths
    assert any("b32" in item.path for item in client.list_artifacts(run.info.run_id, "figures"))


def test_pushing_twice_changes_nothing(mirrored: Any) -> None:
    store, refs, _ = mirrored
    before = runs_of(store.uri, "secateur-toy")
    store._push(refs["prune"], store.destination, [])
    after = runs_of(store.uri, "secateur-toy")
    assert {run.info.run_id for run in before.values()} == {run.info.run_id for run in after.values()}
    assert len(after[refs["prune"]].outputs.model_outputs) == 1


def test_another_machine_gets_entries_from_mlflow(mirrored: Any, tmp_path: Path) -> None:
    store, refs, _ = mirrored
    other = MlflowStore(LocalStore(tmp_path / "other"), store.uri)
    assert other.has(refs["export"])
    assert other.has(refs["gate"])
    assert not other.has(Ref("gate-0123456789abcdef"))
    assert other.record(refs["gate"])["report"]["passed"] is True
    x_BCHW = toy_model().input.example()
    assert torch.equal(other.get(refs["export"]).model(x_BCHW), store.get(refs["export"]).model(x_BCHW))
    assert other.get(refs["export"]).files["model.onnx"].read_bytes() == b"not really onnx"
    with pytest.raises(KeyError, match="run the stage"):
        other.get(Ref("gate-0123456789abcdef"))


def test_a_tampered_artifact_is_refused(mirrored: Any, tmp_path: Path) -> None:
    store, refs, _ = mirrored
    client = client_of(store.uri)
    run = runs_of(store.uri, "secateur-toy")[refs["cascade"]]
    place = Path(run.info.artifact_uri.removeprefix("file://")) / "entry" / "files" / "cascade.json"
    before = place.read_text()
    place.write_text(before.replace("1.3", "1.4"))
    other = MlflowStore(LocalStore(tmp_path / "other"), store.uri)
    with pytest.raises(CorruptModel, match="changed"):
        other.get(refs["cascade"])
    assert not other.local.has(refs["cascade"])
    place.write_text(before)
    assert client is not None
    assert other.get(refs["cascade"]).files


def test_registry_alias_and_its_resolution_elsewhere(mirrored: Any, tmp_path: Path) -> None:
    store, refs, _ = mirrored
    store.alias(refs["train"], "toy-teacher@champion")
    version = client_of(store.uri).get_model_version_by_alias("toy-teacher", "champion")
    assert version.source.startswith("models:/m-")
    other = MlflowStore(LocalStore(tmp_path / "other"), store.uri)
    assert other.resolve("toy-teacher@champion") == refs["train"]
    with pytest.raises(UnknownName, match=r"'toy-teacher@champ'\. Did you mean 'toy-teacher@champion'\?"):
        other.resolve("toy-teacher@champ")
    client = client_of(store.uri)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", "somewhere")
    client.set_registered_model_alias("foreign", "champion", "1")
    with pytest.raises(ValueError, match=r"another program registered: it has no tag secateur\.ref"):
        other.resolve("foreign@champion")
    with pytest.raises(UnknownName):
        other.resolve("nothing")


def test_a_run_that_the_environment_gives_is_used_and_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = fresh_uri(tmp_path)
    client = client_of(uri)
    experiment = client.create_experiment("kubeflow", (tmp_path / "artifacts").as_uri())
    pipeline = client.create_run(experiment, run_name="pipeline").info.run_id
    task = client.create_run(experiment, tags={"mlflow.parentRunId": pipeline}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", task)
    assert open_parent(uri, "ignored", "ignored", {"a": "b"}) == pipeline
    store = MlflowStore(LocalStore(tmp_path / "store"), uri, parent_run=pipeline)
    ref = put(store, "prune", {}, {"validation_accuracy": 0.5}, model=toy_model())
    runs = client.search_runs([experiment])
    assert {run.info.run_id for run in runs} == {pipeline, task}
    found = client.get_run(task)
    assert found.info.status == "RUNNING"
    assert found.data.tags["secateur.ref"] == ref
    assert close_parent(uri, pipeline, verdict="pass", note_markdown="# done")
    closed = client.get_run(pipeline)
    assert closed.info.status == "RUNNING"
    assert closed.data.tags["secateur.verdict"] == "pass"


TRIALS = [
    {"number": 0, "value": 0.5, "cost": {"macs": 4.0}},
    {"number": 1, "value": 0.75, "cost": {"macs": 2.0}, "is_feasible": True},
]


def test_a_table_that_is_pushed_twice_is_one_table(tmp_path: Path) -> None:
    uri = fresh_uri(tmp_path)
    store = MlflowStore(LocalStore(tmp_path / "store"), uri, experiment="toy")
    ref = put(store, "search", {}, {"validation_accuracy": 0.5, "trials": TRIALS})
    store._push(ref, store.destination, [])
    run = runs_of(uri, "toy")[ref]
    path = client_of(uri).download_artifacts(run.info.run_id, "trials.json", str(tmp_path))
    assert json.loads(Path(path).read_text()) == {
        "columns": ["cost", "is_feasible", "number", "value"],
        "data": [['{"macs": 4.0}', None, 0, 0.5], ['{"macs": 2.0}', True, 1, 0.75]],
    }
    with connected(uri) as client:
        assert len(client.load_table(run.info.experiment_id, "trials.json")) == len(TRIALS)


class Killed(BaseException):
    """What a kill does to a process, as far as it can be seen from inside."""


@contextmanager
def killed_in(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End what happens inside when it calls `name`."""

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    with pytest.raises(Killed), monkeypatch.context() as patch:  # noqa: PT012
        patch.setattr(name, kill)
        yield


def test_a_kill_between_storing_and_pushing_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = fresh_uri(tmp_path)
    store = MlflowStore(LocalStore(tmp_path / "store"), uri, experiment="toy")
    with killed_in("deploy.tracking.stage_run.push_entry", monkeypatch):
        put(store, "train", {}, {"validation_accuracy": 0.5}, model=toy_model())
    (train,) = pending_refs(store)
    again = MlflowStore(LocalStore(tmp_path / "store"), uri)
    assert flush(again) == [train]
    assert flush(again) == []
    assert runs_of(uri, "toy")[train].info.status == "FINISHED"
    assert MlflowStore(LocalStore(tmp_path / "other"), uri).has(train)


def test_a_kill_right_after_the_entry_appeared_leaves_it_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MlflowStore(LocalStore(tmp_path / "store"), fresh_uri(tmp_path), experiment="toy")
    really = store.local.put

    def put_and_die(*args: Any) -> None:
        really(*args)
        raise Killed

    monkeypatch.setattr(store.local, "put", put_and_die)
    with pytest.raises(Killed):
        put(store, "train", {}, {"validation_accuracy": 0.5})
    assert len(pending_refs(store)) == 1


def test_a_half_pushed_run_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = fresh_uri(tmp_path)
    store = MlflowStore(LocalStore(tmp_path / "store"), uri, experiment="toy")
    with killed_in("deploy.tracking.stage_run._log_output", monkeypatch):
        put(store, "train", {}, {"validation_accuracy": 0.5}, model=toy_model())
    (before,) = runs_of(uri, "toy").values()
    assert before.info.status == "RUNNING"
    (ref,) = flush(store)
    runs = runs_of(uri, "toy")
    assert set(runs) == {ref}
    assert runs[ref].info.run_id == before.info.run_id
    assert runs[ref].info.status == "FINISHED"
    assert len(runs[ref].outputs.model_outputs) == 1


def test_ancestors_that_mlflow_lacks_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, report = fresh_uri(tmp_path), {"validation_accuracy": 0.5}
    local = LocalStore(tmp_path / "store")
    never = put(local, "train", {}, report, model=toy_model())
    store = MlflowStore(local, uri, experiment="toy")
    with killed_in("deploy.tracking.stage_run.push_entry", monkeypatch):
        put(store, "prune", {"model": never}, report, model=toy_model(1))
    (waits,) = pending_refs(store)
    last = put(store, "export", {"model": waits}, report, model=toy_model(1))
    assert pending_refs(store) == []
    runs = runs_of(uri, "toy")
    assert set(runs) == {never, waits, last}
    for child, parent in ((waits, never), (last, waits)):
        made = runs[parent].outputs.model_outputs[0].model_id
        assert [item.model_id for item in runs[child].inputs.model_inputs] == [made]


def test_flush_without_mlflow_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = MlflowStore(LocalStore(tmp_path / "store"), "http://127.0.0.1:9")
    ref = put(store, "train", {}, {"validation_accuracy": 0.5})
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert flush(store) == []
    assert "1 results wait" in caplog.text
    assert f"push {store.local.root}" in caplog.text
    assert pending_refs(store) == [ref]


def test_nothing_is_lost_while_mlflow_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_MLFLOW_FIRST_DELAY_S", "0.1")
    port = free_port()
    uri, root = f"http://127.0.0.1:{port}", tmp_path / "store"
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        parent = open_parent(uri, "secateur-toy", "offline", pending=root / "pending")
        store = MlflowStore(LocalStore(root), uri, parent_run=parent)
        refs = put_run(store, tmp_path / "files")
        assert not close_parent(uri, parent, verdict="pass", note_markdown="# t", pending=root / "pending")
    assert time.monotonic() - start < 60
    assert parent.startswith("pending-")
    assert store.get(refs["export"]).model is not None
    assert set(pending_refs(store)) == set(refs.values())
    assert uri in caplog.text
    assert f"push {root}" in caplog.text
    with pytest.raises(Unreachable, match="cannot be used"):
        push_pending(store)
    with mlflow_server(tmp_path / "server", port=port):
        assert set(push_pending(store)) == set(refs.values())
        assert push_pending(store) == []
        runs = runs_of(uri, "secateur-toy")
        assert set(runs) == {*refs.values(), "parent"}
        assert runs["parent"].data.tags["secateur.verdict"] == "pass"
        assert runs["parent"].info.status == "FINISHED"
        assert runs["parent"].info.run_name == "offline"
        assert runs[refs["prune"]].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
        other = MlflowStore(LocalStore(tmp_path / "other"), uri)
        assert other.get(refs["export"]).report == store.get(refs["export"]).report


LOAD = """
import pickle, sys
def forbidden(*_, **__): raise RuntimeError("pickle was used")
pickle.load = pickle.loads = pickle.Unpickler = forbidden
import tests.toys
from deploy.pull import output_difference, pull
folder = pull("models:/toy@champion", sys.argv[1], uri=sys.argv[2])
print(output_difference(folder))
"""


def test_the_champion_loads_in_a_new_process_without_pickle(mirrored: Any, tmp_path: Path) -> None:
    from deploy.promote import Under, promote

    store, refs, parent = mirrored
    under = Under(parent_run=parent)
    answer = promote(store, store.uri, "toy", refs["export"], refs["gate"], refs["cascade"], under=under)
    assert answer["promoted"], answer
    command = [sys.executable, "-c", LOAD, str(tmp_path / "pulled"), store.uri]
    env = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) <= 1e-5
    package = json.loads((tmp_path / "pulled" / "package.json").read_text())
    assert "toy_cascade/source/large/weights.safetensors" in package["files"]
