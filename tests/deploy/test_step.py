"""One step: what it asks for, what it finds again and how cheaply, and where it logs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compress.core.layout import write_json
from deploy import step
from deploy.step import OFF, PIPELINE_RUN, flat_numbers, open_store, run_step, state_path, surrounding_parent
from deploy.worker import SOCKET
from tests.deploy.stored_run import fresh_uri

ROOT = Path(__file__).resolve().parents[2]
REPORT = {"validation_accuracy": 0.5, "cost": {"macs": 10}, "kept": [1, 2], "note": "toy"}
TOY = json.dumps({"piece": {"name": "toy"}, "digest": "toy-0"})
TRAIN = json.dumps({"builder": "toy", "epochs": 1, "batch_size": 32, "seed": 1})


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "SECATEUR_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    for name in (PIPELINE_RUN, SOCKET):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The requests that were really worked on; the work is one small entry."""
    requests: list[dict[str, Any]] = []

    def make(request: Mapping[str, Any], workspace: str, parent_run: str, label: str) -> dict[str, Any]:
        requests.append({**request, "parent_run": parent_run, "label": label})
        ref = f"{request['stage']}-{len(requests)}"
        write_json(Path(workspace) / "store" / "entries" / ref / "entry.json", {"seconds": 1.5, "report": REPORT})
        return {"ref": ref, "reused": False}

    monkeypatch.setattr(step, "make", make)
    return requests


def ask(workspace: Path, stage: str = "prune", *, config: str = "{}", **parents: str) -> dict[str, Any]:
    return run_step(stage, config=config, parents=parents, task=TOY, workspace=str(workspace), parent_run="")


def test_the_answer_holds_the_entry_and_its_numbers(tmp_path: Path, made: list[dict[str, Any]]) -> None:
    answer = ask(tmp_path)
    assert answer == {
        "ref": "prune-1",
        "reused": False,
        "seconds": 1.5,
        "report": REPORT,
        "folder": str(tmp_path / "store" / "entries" / "prune-1"),
        "metrics": {"validation_accuracy": 0.5, "cost/macs": 10.0},
    }
    assert ask(tmp_path) == {**answer, "reused": True}
    assert len(made) == 1


def test_the_budgets_name_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = fresh_uri(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    config = '{"builder": "toy", "max_steps": 1}'
    more = {"config": config, "parents": {}, "task": TOY, "workspace": str(tmp_path), "parent_run": ""}
    answer = run_step("train", **more, label="quarter")
    client = client_of(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("secateur").experiment_id])
    assert run.info.run_name == f"train-quarter-{answer['ref'][-4:]}"
    assert run.data.tags["secateur.budget"] == "quarter"


def test_parents_that_are_empty_are_left_out(tmp_path: Path, made: list[dict[str, Any]]) -> None:
    ask(tmp_path, model="train-1", teacher="")
    assert made[0]["parents"] == {"model": "train-1"}
    assert ask(tmp_path, model="train-1", reference="")["reused"]


@pytest.mark.parametrize("change", [{"config": '{"seed": 1}'}, {"stage": "search"}, {"model": "train-2"}])
def test_another_request_is_another_step(tmp_path: Path, made: list[dict[str, Any]], change: dict[str, str]) -> None:
    ask(tmp_path, model="train-1")
    assert not ask(tmp_path, **{"model": "train-1", **change})["reused"]
    assert len(made) == 2


def test_an_entry_that_was_deleted_is_made_again(tmp_path: Path, made: list[dict[str, Any]]) -> None:
    shutil.rmtree(ask(tmp_path)["folder"])
    assert ask(tmp_path)["ref"] == "prune-2"


def test_a_result_that_its_identity_found_counts_as_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "store" / "entries" / "prune-7" / "entry.json", {"seconds": 3.0, "report": {}})
    monkeypatch.setattr(step, "make", lambda *_: {"ref": "prune-7", "reused": True})
    assert ask(tmp_path)["reused"]


@pytest.mark.parametrize(("when_off", "ref"), [("model", "train-1"), ("teacher", ""), ("", "")])
def test_off_passes_the_chosen_parent_on(tmp_path: Path, made: list[dict[str, Any]], when_off: str, ref: str) -> None:
    parents = {"model": "train-1", "teacher": ""}
    more = {"task": TOY, "workspace": str(tmp_path), "parent_run": "", "when_off": when_off}
    answer = run_step("search", config=f" {OFF}\n", parents=parents, **more)
    assert answer["ref"] == ref
    assert answer["report"] == {"note": "search is off"}
    assert not answer["folder"]
    assert made == []
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_flat_and_lists_are_left_out() -> None:
    report = {"a": {"b": {"c": 1}}, "passed": False, "kept": [1, 2], "none": None, "text": "3"}
    assert flat_numbers(report) == {"a/b/c": 1.0, "passed": 0.0}


def test_the_run_around_a_step_is_found_by_the_pipelines_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert surrounding_parent(str(tmp_path)) == ""
    monkeypatch.setenv(PIPELINE_RUN, "team/run 7")
    assert surrounding_parent(str(tmp_path)) == ""
    path = state_path(str(tmp_path), "team/run 7")
    assert path.parent == tmp_path / "runs"
    write_json(path, {"parent_run": "abc"})
    assert surrounding_parent(str(tmp_path)) == "abc"
    monkeypatch.setenv(PIPELINE_RUN, "team/run 8")
    assert surrounding_parent(str(tmp_path)) == ""


def test_the_workspace_is_named_found_or_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert step.workspace_folder("") == tmp_path / ".secateur"
    monkeypatch.setenv("SECATEUR_WORKSPACE", "elsewhere")
    assert step.workspace_folder("") == tmp_path / "elsewhere"
    assert step.workspace_folder("here") == tmp_path / "here"
    with pytest.raises(ValueError, match="name a folder"):
        step.workspace_folder("s3://bucket/models")


def test_the_server_is_named_or_found_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_store(str(tmp_path)).uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert open_store(str(tmp_path)).uri == "http://environment"
    assert open_store(str(tmp_path), tracking_uri="http://argument").uri == "http://argument"
    assert open_store(str(tmp_path)).local.root == tmp_path / "store"


def test_a_run_is_looked_for_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    write_json(state_path(str(tmp_path), "1"), {"parent_run": "abc", "uri": "http://opened"})
    assert open_store(str(tmp_path), parent_run="abc").uri == "http://opened"
    assert open_store(str(tmp_path), parent_run="abc", tracking_uri="http://argument").uri == "http://argument"
    assert open_store(str(tmp_path), parent_run="other").uri == "http://environment"


LIGHT = """
import json, sys
from pathlib import Path
from compress.core.layout import write_json
from deploy import step

def make(request, workspace, parent_run, label):
    write_json(Path(workspace, "store/entries/train-1/entry.json"), {"seconds": 1.0, "report": {}})
    return {"ref": "train-1", "reused": False}

step.make = make
answer = step.run_step("train", config="{}", parents={}, task="toy", workspace=sys.argv[1], parent_run="")
heavy = {"torch", "mlflow", "numpy"} & set(sys.modules)
print(json.dumps({"reused": answer["reused"], "heavy": sorted(heavy), "file": step.__file__}))
"""


def test_reuse_needs_no_heavy_import_and_ends_with_an_edit_of_the_source(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for package in ("compress", "deploy"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))

    def run() -> dict[str, Any]:
        command = [sys.executable, "-c", LIGHT, str(tmp_path / "workspace")]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    assert not run()["reused"]
    again = run()
    assert again == {"reused": True, "heavy": [], "file": str(tree / "deploy" / "step.py")}
    for place in ("deploy/promote.py", "compress/stages/train.py"):
        with (tree / place).open("a") as file:
            file.write("# edited\n")
        assert not run()["reused"], place
        assert run()["reused"], place


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri, uri)


@pytest.mark.slow
def test_a_real_stage_runs_once_and_is_logged_under_the_pipelines_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.tracking import open_parent

    uri = fresh_uri(tmp_path / "server")
    parent = open_parent(uri, "secateur-toy", "pipeline")
    write_json(state_path(str(tmp_path), "42"), {"parent_run": parent, "uri": uri})
    monkeypatch.setenv(PIPELINE_RUN, "42")
    first = ask(tmp_path, "train", config=TRAIN)
    assert not first["reused"]
    assert 0 < first["metrics"]["validation_accuracy"] <= 1
    assert (Path(first["folder"]) / "model").is_dir()
    experiment = client_of(uri).get_run(parent).info.experiment_id
    children = [run for run in client_of(uri).search_runs([experiment]) if run.info.run_id != parent]
    assert [run.data.tags["secateur.ref"] for run in children] == [first["ref"]]
    assert children[0].data.tags["mlflow.parentRunId"] == parent
    shutil.rmtree(tmp_path / "requests")
    again = ask(tmp_path, "train", config=json.dumps(json.loads(TRAIN) | {"label_smoothing": 0.0}))
    assert again["ref"] == first["ref"], "what equals a default is no part of the identity"
    assert again["reused"]
    assert again["seconds"] == first["seconds"]
    assert not (tmp_path / "store" / "scratch" / first["ref"]).exists()


def test_data_that_changed_is_refused_and_nothing_is_remembered(tmp_path: Path) -> None:
    changed = json.dumps({"piece": {"name": "toy"}, "digest": "toy-1"})
    with pytest.raises(ValueError, match="the data of task 'toy' changed"):
        run_step("train", config=TRAIN, parents={}, task=changed, workspace=str(tmp_path), parent_run="")
    assert not (tmp_path / "requests").exists()
