"""What frames a run: opened only when everything is in order, closed whatever happens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.store import LocalStore
from deploy.conclude import close_run, promote_step, report_step, resolve
from deploy.promote import Under
from deploy.step import PIPELINE_RUN, state_path, surrounding_parent
from deploy.worker import SOCKET
from tests.deploy.stored_run import fresh_uri, put, put_run
from tests.toys import TOY_INPUT, toy_model

NOBODY = "http://127.0.0.1:9"
STUDENT = {"name": "half", "prune": '{"budget": "macs=0.5", "criterion": "taylor"}', "search": "off"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", PIPELINE_RUN, SOCKET):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECATEUR_MLFLOW_ATTEMPTS", "1")


def local(workspace: Path) -> LocalStore:
    return LocalStore(workspace / "store")


def pin(workspace: Path, *students: Mapping[str, str], task: str = "toy", **more: str) -> dict[str, str]:
    given = {"teacher": "", "run_name": "", "tracking_uri": "", "pipeline_run": "1"} | more
    return resolve(task, budgets=json.dumps(students or [STUDENT]), workspace=str(workspace), **given)


def candidate(
    store: LocalStore, folder: Path, seed: int, *, speedup: float = 2.0, is_passed: bool = True, label: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Store a run whose gate judged by `speedup`; return what component `gate` hands on, and the refs."""
    refs = put_run(store, folder, seed=seed, is_passed=is_passed)
    report = store.record(refs["gate"])["report"]
    checks = [{**report["checks"][0], "value": speedup}]
    gate = put(store, "gate", {"evaluation": refs["evaluate"]}, {**report, "checks": checks}, config={"seed": seed})
    answer = {"ref": gate, "passed": is_passed, "label": label or f"student{seed}", "evaluation": refs["evaluate"]}
    return answer, {**refs, "gate": gate}


def run_in(workspace: Path, run_id: str) -> Any:
    from mlflow import MlflowClient

    uri = f"sqlite:///{workspace / 'mlflow.db'}"
    return MlflowClient(uri, uri).get_run(run_id)


def state_of(workspace: Path) -> dict[str, Any]:
    return json.loads(state_path(str(workspace), "1").read_text())


def close(workspace: Path, status: str = "SUCCEEDED", error: str = "") -> dict[str, Any]:
    return close_run("1", workspace=str(workspace), tracking_uri="", status=status, error=error)


# resolve


@pytest.mark.parametrize(
    ("students", "said"),
    [
        ([{"name": "half", "prun": "{}"}], "stage in budget 'half'.*Did you mean 'prune'"),
        ([{"name": "half", "prune": '{"buget": "macs=0.5"}'}], "Did you mean 'budget'"),
        ([{"name": "half", "prune": '{"criterion": "taylr"}'}], "Did you mean 'taylor'"),
        ([{"name": "half", "prune": '{"criterion": {"name": "taylor", "squar": true}}'}], "squar"),
        ([{"name": "half", "prune": '{"budget": "mac=0.5"}'}], "macs"),
        ([{"name": "half", "search": "on"}], "not valid JSON"),
        ([{**STUDENT, "gate": "off"}], "'half': gate cannot be off"),
        ([STUDENT, STUDENT], "a name of its own.*half.*half"),
        ([STUDENT, {"prune": "off"}], "a name of its own"),
    ],
)
def test_a_mistake_in_a_budget_is_said_before_a_run_is_opened(
    tmp_path: Path, students: list[dict[str, str]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        pin(tmp_path, *students)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_task_is_said_before_a_run_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        pin(tmp_path, task="digit")
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_cannot_be_used_is_said_before_a_run_is_opened(tmp_path: Path) -> None:
    store = local(tmp_path)
    other = replace(TOY_INPUT, class_names=("left", "right", "none", "both"))
    refs = {
        "knows 4 classes": put(store, "train", {}, {}, model=Model.build(BUILDERS.bind("toy"), other, seed=0)),
        "holds no model": put(store, "gate", {}, {"passed": True}),
        "unknown entry": "nobody",
    }
    for said, teacher in refs.items():
        with pytest.raises(ValueError, match=said):
            pin(tmp_path, teacher=teacher)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.slow
def test_task_and_teacher_are_pinned_and_the_run_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_uri(tmp_path)
    teacher = put(local(tmp_path), "train", {}, {}, model=toy_model())
    local(tmp_path).alias(teacher, "toy@champion")
    more = {"teacher": "models:/toy@champion", "run_name": "first try", "pipeline_run": "team/1"}
    found = pin(tmp_path, task='{"name": "toy", "seed": 3}', **more)
    run = run_in(tmp_path, found["parent_run"])
    assert json.loads(found["task"]) == {"piece": {"name": "toy", "seed": 3}, "digest": "toy-3"}
    assert found["data_digest"] == "toy-3"
    assert found["teacher_ref"] == teacher
    assert run.info.run_name == "first try"
    assert run.info.status == "RUNNING"
    assert run.data.tags["kfp.run_id"] == "team/1"
    assert run.data.tags["secateur.data_digest"] == "toy-3"
    monkeypatch.setenv(PIPELINE_RUN, "team/1")
    assert surrounding_parent(str(tmp_path)) == found["parent_run"]


# promote


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `deploy.promote.promote` was asked for; it says yes without MLflow."""
    calls: list[tuple[Any, ...]] = []

    def promote(store: Any, *rest: Any, under: Under) -> dict[str, Any]:
        calls.append((*rest, under.parent_run))
        return {"promoted": True, "name": rest[1], "version": "4", "reasons": []}

    monkeypatch.setattr("deploy.promote.promote", promote)
    return calls


def promoted(workspace: Path, *candidates: Mapping[str, Any], parent_run: str = "p") -> dict[str, Any]:
    more = {"workspace": str(workspace), "model_name": "toy", "tracking_uri": "", "parent_run": parent_run}
    return promote_step(candidates, **more)


def test_the_fastest_that_passed_is_promoted(tmp_path: Path, asked: list[tuple[Any, ...]]) -> None:
    store, files = local(tmp_path), tmp_path / "files"
    slow, _ = candidate(store, files, 0, speedup=1.6)
    fast, refs = candidate(store, files, 1, speedup=2.5)
    failed, _ = candidate(store, files, 2, speedup=9.0, is_passed=False)
    answer = promoted(tmp_path, slow, fast, failed)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert asked == [(uri, "toy", refs["export"], fast["ref"], refs["cascade"], "p")]
    assert answer["ref"] == refs["export"]
    assert answer["promoted"]
    assert answer["verdict"] == "student1: version 4 is the champion"
    assert answer["metrics"]["ratio/speedup"] == 2.0


def test_a_speedup_that_was_not_measured_comes_last(tmp_path: Path, asked: list[tuple[Any, ...]]) -> None:
    store, files = local(tmp_path), tmp_path / "files"
    unknown, _ = candidate(store, files, 0, speedup=None)  # type: ignore[arg-type]
    known, refs = candidate(store, files, 1, speedup=1.1)
    assert promoted(tmp_path, unknown, known)["ref"] == refs["export"]


def test_nothing_is_promoted_when_nobody_passed(tmp_path: Path, asked: list[tuple[Any, ...]]) -> None:
    failed, _ = candidate(local(tmp_path), tmp_path / "files", 0, is_passed=False)
    for candidates in ([failed], []):
        answer = promoted(tmp_path, *candidates)
        assert not answer["promoted"]
        assert answer["ref"] == ""
        assert answer["verdict"] == "no student passed its gate"
    assert asked == []


# report and close


def opened(workspace: Path) -> str:
    fresh_uri(workspace)
    return pin(workspace)["parent_run"]


def reported(workspace: Path, parent: str, *candidates: Mapping[str, Any], teacher: str) -> dict[str, Any]:
    refs = json.dumps({"teacher": teacher, "candidates": candidates, "promotion": ""})
    return report_step(refs, workspace=str(workspace), parent_run=parent)


@pytest.mark.slow
def test_a_run_that_passed_is_promoted_shown_and_closed(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    parent = opened(tmp_path)
    good, refs = candidate(local(tmp_path), tmp_path / "files", 0, label="half")
    bad, _ = candidate(local(tmp_path), tmp_path / "files", 1, label="quarter", is_passed=False)
    answer = promoted(tmp_path, bad, good, parent_run=parent)
    assert answer["promoted"], answer
    page = reported(tmp_path, parent, good, bad, teacher=refs["train"])
    assert Path(page["path"]) == tmp_path / "reports" / parent / "index.html"
    assert Path(page["path"]).read_text() == page["html"]
    assert all(text in page["html"] for text in ("half", "quarter", "models:/toy@champion", parent))
    assert state_of(tmp_path)["verdict"] == "pass"
    assert close(tmp_path) == {"verdict": "pass", "path": page["path"]}
    run = run_in(tmp_path, parent)
    assert run.info.status == "FINISHED"
    assert run.data.tags["secateur.verdict"] == "pass"
    assert run.data.tags["secateur.promoted"] == "models:/toy/1"
    note = run.data.tags["mlflow.note.content"]
    assert "The gate was passed by half (1 of 2); version 1 of toy is the champion." in note
    assert "**quarter did not pass:**" in note
    assert run.data.metrics["ratio/speedup"] == 2.0
    assert run.data.metrics["quarter/gate/passed"] == 0.0
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    kept = {item.path for item in client.list_artifacts(parent, "report")}
    assert kept == {"report/index.html", "report/pareto.png"}


@pytest.mark.slow
def test_a_run_that_did_not_pass_ends_well_with_that_verdict(tmp_path: Path) -> None:
    parent = opened(tmp_path)
    bad, refs = candidate(local(tmp_path), tmp_path / "files", 0, is_passed=False)
    reported(tmp_path, parent, bad, teacher=refs["train"])
    assert close(tmp_path)["verdict"] == "fail"
    run = run_in(tmp_path, parent)
    assert run.info.status == "FINISHED"
    assert run.data.tags["secateur.verdict"] == "fail"
    assert "too slow" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["gate/passed"] == 0.0


@pytest.mark.slow
def test_a_pipeline_that_broke_is_closed_as_an_error(tmp_path: Path) -> None:
    parent = opened(tmp_path)
    assert close(tmp_path, "FAILED", "train: Diverged at step 7") == {"verdict": "error", "path": ""}
    run = run_in(tmp_path, parent)
    assert run.info.status == "FAILED"
    assert run.data.tags["secateur.verdict"] == "error"
    assert "ended before anything was judged" in run.data.tags["mlflow.note.content"]
    assert "Diverged at step 7" in run.data.tags["mlflow.note.content"]
    close(tmp_path)
    assert run_in(tmp_path, parent).info.status == "FAILED", "success needs a verdict of the report"


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["page", "data"])
def test_a_run_whose_page_fails_is_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    parent = opened(tmp_path)
    good, refs = candidate(local(tmp_path), tmp_path / "files", 0)

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("no such chart")

    monkeypatch.setattr("deploy.report.write_page" if broken == "page" else "deploy.report.gather", fail)
    with pytest.raises(KeyError, match="no such chart"):
        reported(tmp_path, parent, good, teacher=refs["train"])
    assert close(tmp_path, "FAILED", "report: no such chart")["verdict"] == "error"
    run = run_in(tmp_path, parent)
    assert run.info.status == "FAILED"
    assert run.data.tags["secateur.verdict"] == "error"
    note = run.data.tags["mlflow.note.content"]
    assert "report: no such chart" in note
    assert ("The gate was passed" in note) == (broken == "page")
    assert ("The page could not be written" in note) == (broken == "data")
    assert ("ratio/speedup" in run.data.metrics) == (broken == "page")


def test_a_run_that_was_never_opened_needs_no_closing(tmp_path: Path) -> None:
    assert close(tmp_path) == {"verdict": "error", "path": ""}
    assert list(tmp_path.iterdir()) == []


def test_a_page_needs_no_run(tmp_path: Path) -> None:
    good, refs = candidate(local(tmp_path), tmp_path / "files", 0)
    page = reported(tmp_path, "", good, teacher=refs["train"])
    assert Path(page["path"]) == tmp_path / "reports" / "latest" / "index.html"
    assert "student0" in page["html"]


def test_without_mlflow_the_verdict_waits_in_the_workspace(tmp_path: Path) -> None:
    parent = pin(tmp_path, tracking_uri=NOBODY)["parent_run"]
    assert parent.startswith("pending-")
    good, refs = candidate(local(tmp_path), tmp_path / "files", 0)
    answer = promoted(tmp_path, good, parent_run=parent)
    assert not answer["promoted"]
    assert f"MLflow at {NOBODY} cannot be used" in answer["verdict"]
    page = reported(tmp_path, parent, good, teacher=refs["train"])
    assert NOBODY in page["html"]
    assert close(tmp_path) == {"verdict": "pass", "path": page["path"]}
    kept = json.loads((tmp_path / "store" / "pending" / f"{parent}.json").read_text())
    assert kept["close"]["verdict"] == "pass"
    assert kept["close"]["status"] == "FINISHED"
    assert kept["close"]["metrics"]["ratio/speedup"] == 2.0
    assert page["path"] in kept["close"]["artifacts"].values()
    assert not (tmp_path / "mlflow.db").exists()
    shutil.rmtree(tmp_path / "reports")
    assert close(tmp_path)["verdict"] == "pass", "closing may be repeated"


def test_an_alias_that_moved_in_the_registry_wins_over_what_is_remembered_here(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from deploy.conclude import _teacher
    from deploy.mlflow_store import MlflowStore

    uri = fresh_uri(tmp_path / "server")
    store = MlflowStore(LocalStore(tmp_path / "store"), uri)
    first, second = (put(store, "train", {}, {}, model=toy_model(seed), config={"seed": seed}) for seed in (0, 1))
    store.alias(first, "net@champion")
    store.alias(second, "net@next")
    MlflowClient(uri, uri).set_registered_model_alias("net", "champion", "2")
    assert _teacher(store, "models:/net@champion") == second
    assert _teacher(store, "net@champion") == first, "without models:/ it is this workspace's name"
    with pytest.raises(ValueError, match="net@champion"):
        _teacher(store, "models:/net@champio")
