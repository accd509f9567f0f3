"""The whole pipeline through `kfp.local`, with steps that do no work: what is asserted are outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SHIM = Path(__file__).with_name("shim")
PRESET = {
    "task": {"name": "toy"},
    "train": {"epochs": 2},
    "model_name": "toy",
    "budgets": [
        {"name": "half", "prune": {"budget": "macs=0.5"}, "search": {"nested": {"a": [1, {"b": 2}]}}},
        {"name": "quarter", "prune": {"budget": "macs=0.25"}, "search": "off", "cascade": "off"},
    ],
}


def run_dag(folder: Path, *extra: str, num_budgets: int = 2, **environment: str) -> subprocess.CompletedProcess:
    preset = PRESET | {"budgets": PRESET["budgets"][:num_budgets]}
    (folder / "toy.json").write_text(json.dumps(preset))
    command = [sys.executable, "-m", "pipelines.local", "--preset", "toy.json", "--workspace", "w", *extra]
    variables = os.environ | {"PYTHONPATH": str(SHIM), **environment}
    variables.pop("COVERAGE_PROCESS_START", None)
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120)


def calls(folder: Path, name: str = "") -> list[dict]:
    lines = [json.loads(line) for line in (folder / "w" / "calls.jsonl").read_text().splitlines()]
    return [line for line in lines if not name or line["name"] == name]


@pytest.fixture(scope="module")
def passed(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("dag")
    return folder, run_dag(folder, SHIM_PASSED="quarter")


def test_each_stage_gets_the_refs_of_the_stages_before(passed):
    folder, done = passed
    assert done.returncode == 0, done.stdout + done.stderr
    order = [call["name"] for call in calls(folder)]
    chain = ["search", "prune", "distill", "finetune_quant", "export", "cascade", "evaluate", "gate"]
    assert sorted(order[2:10]) == sorted(chain)
    assert order[:3] == ["resolve", "train", "search"]
    assert order[-3:] == ["promote", "report", "close_run"]
    assert len(order) == 2 + 2 * 8 + 3
    half = {call["name"]: call for call in calls(folder) if call.get("label") == "half"}
    refs = {path.name.rsplit("-", 1)[0]: path.name for path in (folder / "w/store/entries").iterdir()}
    teacher = refs["train"]
    assert half["search"]["parents"] == {"model": teacher, "reference": teacher}
    assert half["prune"]["parents"]["model"].startswith("search-")
    assert half["prune"]["parents"]["reference"] == teacher
    assert half["distill"]["parents"]["model"].startswith("prune-")
    assert half["finetune_quant"]["parents"]["model"].startswith("distill-")
    assert half["export"]["parents"]["model"].startswith("finetune_quant-")
    assert half["cascade"]["parents"] == {"model": half["export"]["parents"]["model"], "teacher": teacher}
    assert half["evaluate"]["parents"]["model"].startswith("export-")
    assert half["evaluate"]["parents"]["cascade"].startswith("cascade-")
    assert list(half["gate"]["parents"]) == ["evaluation"]
    assert half["gate"]["parents"]["evaluation"].startswith("evaluate-")


def test_configurations_arrive_unchanged(passed):
    folder, _ = passed
    quarter = {call["name"]: call for call in calls(folder) if call.get("label") == "quarter"}
    half = {call["name"]: call for call in calls(folder) if call.get("label") == "half"}
    assert json.loads(half["search"]["config"]) == {"nested": {"a": [1, {"b": 2}]}}
    assert json.loads(half["prune"]["config"]) == {"budget": "macs=0.5"}
    assert quarter["search"]["config"] == "off"
    assert json.loads(calls(folder, "train")[0]["config"]) == {"epochs": 2}
    assert {call["task"] for call in calls(folder) if "label" in call} == {'{"name": "toy"}@1'}
    assert {call["parent_run"] for call in calls(folder) if "parent_run" in call} == {"run-1"}


def test_a_stage_that_is_off_passes_its_model_on(passed):
    folder, _ = passed
    quarter = {call["name"]: call for call in calls(folder) if call.get("label") == "quarter"}
    assert quarter["prune"]["parents"]["model"] == quarter["prune"]["parents"]["reference"]
    assert quarter["evaluate"]["parents"]["cascade"] == ""


def test_only_the_candidate_that_passed_is_promoted(passed):
    folder, _ = passed
    (promoted,) = calls(folder, "promote")
    assert [(item["label"], item["passed"]) for item in promoted["candidates"]] == [("half", False), ("quarter", True)]
    assert promoted["model_name"] == "toy"
    (shown,) = calls(folder, "report")
    assert shown["refs"]["promotion"] == f"promote-of-{promoted['candidates'][1]['ref']}"
    assert shown["refs"]["candidates"] == promoted["candidates"]


def test_the_run_is_opened_and_closed_under_one_identity(passed):
    folder, _ = passed
    (opened,), (closed,) = calls(folder, "resolve"), calls(folder, "close_run")
    assert opened["pipeline_run"] == closed["pipeline_run"] != ""
    assert closed["status"] == "SUCCEEDED"


def test_the_terminal_shows_stages_a_table_and_where_to_look(passed):
    folder, done = passed
    assert "prune           half         ran" in done.stdout
    assert "search          quarter      off" in done.stdout
    assert "prune: 1/2, 15 s, about 15 s left" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("│ half "))
    assert "98.50 %" in row
    assert "5.00×" in row
    assert "2.50× (2.40 – 2.60)" in row
    assert "refused: accuracy fell" in row
    assert f"report    {folder / 'w' / 'report.html'}" in done.stdout
    assert "ui --backend-store-uri sqlite:///" in done.stdout
    assert "KFP Executor" not in done.stdout


def test_outputs_of_kubeflow_hold_pointer_metrics_and_page(passed):
    folder, _ = passed
    (pointer,) = (folder / "w/dag/outputs").glob("*/*iteration-0/prune/pointer")
    assert json.loads(pointer.read_text())["label"] == "half"
    (page,) = (folder / "w/dag/outputs").glob("*/report/page")
    assert page.read_text() == "<html></html>"


def test_a_second_run_finds_everything(passed):
    folder, first = passed
    done = run_dag(folder, SHIM_PASSED="quarter")
    assert done.returncode == 0
    ran = [line.split()[0] for line in done.stdout.splitlines() if " ran " in line]
    assert ran == ["resolve", "verdict", "promote", "report", "close_run"]
    assert "15 reused" in done.stdout, done.stdout
    table = [line for line in first.stdout.splitlines() if "│" in line]
    assert [line for line in done.stdout.splitlines() if "│" in line] == table


def test_a_given_teacher_is_passed_through_and_nothing_is_promoted_when_no_gate_passed(tmp_path):
    done = run_dag(tmp_path, "--teacher", "train-0123", num_budgets=1)
    assert done.returncode == 0, done.stdout
    (trained,) = calls(tmp_path, "train")
    assert trained["config"] == "off"
    assert trained["parents"] == {"model": "train-0123"}
    assert calls(tmp_path, "search")[0]["parents"]["model"] == "train-0123"
    assert calls(tmp_path, "promote") == []
    (shown,) = calls(tmp_path, "report")
    assert shown["refs"]["promotion"] == ""
    assert shown["refs"]["teacher"] == "train-0123"
    assert calls(tmp_path, "close_run")[0]["status"] == "SUCCEEDED"


def test_a_failing_stage_closes_the_run_and_says_why(tmp_path):
    done = run_dag(tmp_path, num_budgets=1, SHIM_FAILS="distill")
    assert done.returncode == 1
    assert "distill (half): ValueError: distill cannot: write a smaller budget." in done.stdout
    assert str(tmp_path / "w" / "dag.log") in done.stdout
    assert "Got executor_input" not in done.stdout
    assert calls(tmp_path, "gate") == calls(tmp_path, "report") == []
    (closed,) = calls(tmp_path, "close_run")
    assert closed["status"] == "FAILED"
    assert closed["error"]
    assert "Traceback" in (tmp_path / "w" / "dag.log").read_text()
