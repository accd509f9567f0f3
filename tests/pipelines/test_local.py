"""The command: its mistakes in words, and what it does when the pipeline breaks or is stopped."""

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pipelines import local

GIVEN = {"workspace": "w", "tracking_uri": "", "budgets": [{"name": "half"}]}
STEP = "- INFO - Executing task '{0}'\n    secateur-step {1}\nTask '{0}' finished with status SUCCESS\n"


def pretend(monkeypatch, text: str, status: int = 0) -> None:
    """Let the pipeline's process print `text` and end with `status`."""
    code = f"import sys; sys.stdout.write({text!r}); sys.exit({status})"
    real = local.subprocess.Popen
    monkeypatch.setattr(local.subprocess, "Popen", lambda command, **more: real([sys.executable, "-c", code], **more))


def steps(*names: str) -> str:
    labels = {"gate": "half"}
    facts = {name: json.dumps({"stage": name, "label": labels.get(name, "")}) for name in names}
    return "".join(STEP.format(name, facts[name]) for name in names)


def test_all_expected_steps_make_a_run(monkeypatch, tmp_path):
    pretend(monkeypatch, steps("resolve", "train", "gate", "report", "close_run"))
    watch = local.run(GIVEN, tmp_path, Console(quiet=True))
    assert [step.stage for step in watch.steps] == ["resolve", "train", "gate", "report", "close_run"]
    assert "Executing task" in (tmp_path / "dag.log").read_text()
    assert json.loads((tmp_path / "dag" / "arguments.json").read_text()) == GIVEN


def test_a_step_that_never_ran_is_a_failure(monkeypatch, tmp_path):
    pretend(monkeypatch, steps("resolve", "train", "close_run"))
    with pytest.raises(local.DagError, match="ended without report, gate of half"):
        local.run(GIVEN, tmp_path, Console(quiet=True))


def test_a_branch_that_kubeflow_dropped_is_a_failure(monkeypatch, tmp_path):
    text = steps("resolve", "train", "gate", "report", "close_run") + "WARNING - Condition evaluation failed for x\n"
    pretend(monkeypatch, text)
    with pytest.raises(local.DagError, match="Condition evaluation failed"):
        local.run(GIVEN, tmp_path, Console(quiet=True))


def test_an_exit_status_is_a_failure(monkeypatch, tmp_path):
    pretend(monkeypatch, "Killed\n", 3)
    with pytest.raises(local.DagError, match="exit status 3"):
        local.run(GIVEN, tmp_path, Console(quiet=True))


def test_a_path_that_kubeflow_would_rewrite_is_refused(tmp_path):
    with pytest.raises(ValueError, match="python3"):
        local.run(GIVEN, tmp_path / "python3", Console(quiet=True))


def test_mistakes_are_said_in_words(capsys):
    assert local.main(["--data", "digit"]) == 1
    assert "Did you mean 'digits'?" in capsys.readouterr().out


def test_stopping_by_hand_closes_the_run(monkeypatch, tmp_path, capsys):
    closed = []
    fake = type(sys)("deploy.conclude")
    fake.close_run = lambda pipeline_run, **more: closed.append((pipeline_run, more["status"]))
    monkeypatch.setitem(sys.modules, "deploy.conclude", fake)
    resolved = STEP.format("resolve", json.dumps({"stage": "resolve", "pipeline_run": "42"}))
    pretend(monkeypatch, resolved + "- INFO - Executing task 'train'\n")

    def interrupt(self, step):
        raise KeyboardInterrupt

    real = local.Watch
    monkeypatch.setattr(
        local,
        "Watch",
        lambda start, move, end: real(lambda s: interrupt(0, s) if s.task == "train" else None, move, end),
    )
    assert local.main(["--data", "digits", "--workspace", str(tmp_path)]) == 130
    assert closed == [("42", "CANCELLED")]
    assert "goes on from there" in capsys.readouterr().out


def test_stopping_ends_every_process_of_the_pipeline():
    import subprocess
    import time

    import psutil

    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code])
    family: list[psutil.Process] = []
    while not family:
        time.sleep(0.02)
        family = psutil.Process(process.pid).children(recursive=True)
    local._stop(process)
    assert process.wait(timeout=5) != 0
    assert not psutil.wait_procs(family, timeout=5)[1]
    local._stop(process)


def test_help_names_the_presets(capsys):
    with pytest.raises(SystemExit):
        local.main(["--help"])
    assert "digits, fashion_mnist" in " ".join(capsys.readouterr().out.split())


def test_the_last_lines_say_where_to_look(tmp_path, capsys):
    console = Console(width=150, file=sys.stdout)
    local._conclude(local.Watch(), tmp_path, console, "http://mlflow.example", 3.2)
    out = capsys.readouterr().out
    assert "0 tasks in 3 s, 0 reused" in out
    assert "MLflow    open http://mlflow.example" in out
    assert Path(sys.executable).name.startswith("python")
