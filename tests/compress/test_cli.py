import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress import cli
from compress.core.stage import Ref, StageResult
from compress.store import LocalStore
from tests.toys import toy_model

SECATEUR = Path(sys.executable).parent / "secateur"


def call(*words):
    return subprocess.run([SECATEUR, *map(str, words)], capture_output=True, text=True, check=False)


def say(capsys, monkeypatch, *words):
    """Run the command in this process; return exit status, output and errors."""
    monkeypatch.setattr(sys, "argv", ["secateur", *map(str, words)])
    try:
        cli.main()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def store(tmp_path):
    made = LocalStore(tmp_path / "store")
    record = {"stage": "proof", "version": 1, "config": {}, "parents": {}, "task": None}
    report = {"validation_accuracy": 0.5, "note": "x" * 300, "cost": {"macs": 1}}
    made.put(Ref("proof-0123456789abcdef"), record, StageResult(report=report, model=toy_model()), 2.0)
    return made


def test_list_shows_every_family_or_one(capsys, monkeypatch):
    status, everything, _ = say(capsys, monkeypatch, "list", "--json")
    assert status == 0
    assert {"criterion", "stage", "task", "builder"} <= set(json.loads(everything))
    for word in ("criterion", "criteria"):
        _, one, _ = say(capsys, monkeypatch, "list", word)
        assert "magnitude" in one
        assert "resnet_cifar" not in one


def test_describe_shows_options_of_pieces_and_stages(capsys, monkeypatch):
    _, piece, _ = say(capsys, monkeypatch, "describe", "taylor")
    assert "Molchanov" in piece
    _, stage, _ = say(capsys, monkeypatch, "describe", "prune", "--json")
    assert json.loads(stage)[0]["options"]["budget"] == "macs=0.5"


def test_a_misspelt_name_is_answered_with_the_nearest(capsys, monkeypatch):
    status, _, errors = say(capsys, monkeypatch, "describe", "taylr")
    assert status == 2
    assert "Did you mean 'taylor'" in errors
    assert "Did you mean 'criterion'" in say(capsys, monkeypatch, "list", "criterio")[2]


def test_show_and_alias(capsys, monkeypatch, store):
    assert say(capsys, monkeypatch, "alias", "proof", "best", "--store", store.root)[0] == 0
    _, text, _ = say(capsys, monkeypatch, "show", "best", "--store", store.root)
    assert "validation_accuracy: 0.5000" in text
    assert "(--json shows all)" in text
    _, full, _ = say(capsys, monkeypatch, "show", "best", "--store", store.root, "--json")
    assert json.loads(full)["seconds"] == 2.0
    status, _, errors = say(capsys, monkeypatch, "show", "bset", "--store", store.root)
    assert status == 2
    assert "Did you mean 'best'" in errors


def test_run_reads_its_options_from_the_stage(capsys, monkeypatch):
    status, text, _ = say(capsys, monkeypatch, "run", "train", "--help")
    assert status == 0
    assert "--builder" in text
    assert "--batch-size" in text
    assert "--weights" in text


@pytest.mark.slow
def test_run_runs_reuses_and_compares(tmp_path):
    fit = ["--epochs=1", "--batch-size=64"]
    net = '--builder={"name": "resnet_cifar", "depth": 8, "width": 8}'
    task = '--task={"name": "digits", "limit": 128}'
    where = f"--store={tmp_path}"
    first = call("run", "train", net, task, where, *fit, "--save-as=teacher")
    assert first.returncode == 0, first.stderr
    assert "validation_accuracy" in first.stdout
    second = call("run", "train", net, task, where, *fit)
    assert "reused" in second.stdout
    pruned = call("run", "prune", "--model=teacher", task, where, "--budget=macs=0.5", "--json")
    assert pruned.returncode == 0, pruned.stderr
    facts = json.loads(pruned.stdout)
    assert facts["report"]["cost"]["macs"] <= 0.5 * facts["report"]["cost_before"]["macs"]
    assert facts["paired_latency"]["torch, batch 1"]["value"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune", "--model=none"], "unknown entry"),
        (["prune", "--model=none", "--criterion=taylr"], "Did you mean 'taylor'"),
        (["train", "--epochs=many"], "option 'epochs'"),
        (["train", "--task=digts"], "Did you mean 'digits'"),
        (["train", '--config={"epoch": 1}'], "Did you mean 'epochs'"),
        (["train", "--config=[1]"], "--config is a JSON object"),
        (["train", "--config={"], "is not valid JSON"),
        (["train", "--task={"], "is not valid JSON"),
        (["prune", "--model=none", "--criterion=5"], "a criterion is a name"),
    ],
)
def test_bad_words_are_refused_before_any_work(capsys, monkeypatch, tmp_path, words, message):
    status, _, errors = say(capsys, monkeypatch, "run", *words, f"--store={tmp_path}")
    assert status == 2
    assert message in errors
    assert "Traceback" not in errors


def test_a_package_that_is_missing_is_named_with_its_extra(capsys, monkeypatch):
    monkeypatch.setattr(cli, "app", lambda: (_ for _ in ()).throw(ModuleNotFoundError("No module named 'optuna'")))
    status, _, errors = say(capsys, monkeypatch, "list")
    assert status == 2
    assert "secateur[all]" in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"_SECATEUR_COMPLETE": "complete_bash", "COMP_WORDS": "secateur run fine", "COMP_CWORD": "2"},
        {"_SECATEUR_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "secateur run fine"},
        {"_SECATEUR_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": "secateur run fine",
         "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    ],
    ids=["bash", "zsh", "fish"],
)  # fmt: skip
def test_shell_completion_knows_the_stages(environment):
    done = subprocess.run([SECATEUR], capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert "finetune_quant" in done.stdout
