import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from compress import cli
from compress.core.stage import Ref, StageResult
from compress.store import LocalStore
from tests.studies.folder import write_study
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


@pytest.fixture
def numbers(tmp_path, monkeypatch):
    """A clone with one small study in it."""
    monkeypatch.setenv("STUDY_LOG", str(tmp_path / "log"))
    monkeypatch.chdir(tmp_path)
    return write_study(tmp_path)


def test_study_lists_studies_and_how_far_they_are(capsys, monkeypatch, numbers):
    status, text, _ = say(capsys, monkeypatch, "study")
    assert status == 0
    assert "Does a larger number win?" in text
    assert "0 of 4" in text
    say(capsys, monkeypatch, "study", "42", "--workspace", "w", "--only", "small")
    _, text, _ = say(capsys, monkeypatch, "study", "--workspace", "w", "--json")
    assert [(state["preset"], state["done"]) for state in json.loads(text)[0]["presets"]] == [("quick", 2), ("full", 2)]


def test_study_runs_a_preset_and_writes_the_verdict(capsys, monkeypatch, numbers):
    status, text, errors = say(capsys, monkeypatch, "study", "0042", "--preset", "quick", "--workspace", "w")
    assert status == 0
    assert text.startswith("large beats small by 2.00 ± 0.00 points (2 seeds).")
    assert "4/4 large@1" in errors
    assert "large beats small" in (numbers / "README.md").read_text()
    _, text, _ = say(capsys, monkeypatch, "study", "numbers", "--report", "--json")
    assert json.loads(text)["headline"].startswith("large beats small")


def test_study_says_when_cells_are_left_and_when_one_failed(capsys, monkeypatch, numbers):
    status, _, errors = say(capsys, monkeypatch, "study", "42", "--workspace", "w", "--only", "s*")
    assert status == 75
    assert "2 of 4 cells are measured: --only left some out" in errors
    monkeypatch.setenv("STUDY_SLEEP", "0.4")
    status, _, errors = say(capsys, monkeypatch, "study", "42", "--workspace", "w", "--slice-minutes", "0.003")
    assert status == 75
    assert "the slice of time is over" in errors
    monkeypatch.setenv("STUDY_FAIL", "large@0")
    status, _, errors = say(capsys, monkeypatch, "study", "42", "--workspace", "w")
    assert status == 1
    assert "large@0: RuntimeError: no luck" in errors


def test_study_refuses_what_it_cannot_do(capsys, monkeypatch, numbers):
    for words, message in (
        (["0042-number"], "Did you mean '0042-numbers'"),
        (["42", "--preset", "quik"], "Did you mean 'quick'"),
        (["42", "--only", "smal"], "Did you mean 'small'"),
        (["42", "--slice-minutes", "-1"], "use 0 for no limit"),
        (["42", "--threads", "-1"], "use 1 or more"),
        (["42", "--report"], "no cell of 0042-numbers quick is measured"),
    ):
        status, _, errors = say(capsys, monkeypatch, "study", *words, "--workspace", "w")
        assert status == 2
        assert message in errors


def test_installed_packages_add_commands_and_groups_of_commands(capsys, monkeypatch):
    def greet(name: str) -> None:
        """Greet somebody."""
        print(f"hello {name}")

    group = typer.Typer()
    group.command("one")(greet)
    group.command("two")(greet)
    found = {"greet": greet, "all": group}
    points = [SimpleNamespace(name=name, load=lambda name=name: found[name]) for name in found]
    monkeypatch.setattr(cli, "app", typer.Typer(pretty_exceptions_enable=False))
    monkeypatch.setattr(cli.metadata, "entry_points", lambda *, group: points if group == cli.COMMANDS else [])
    monkeypatch.setattr(cli, "add_plugin_commands", partial(cli.add_plugin_commands, cli.app))
    assert say(capsys, monkeypatch, "greet", "you") == (0, "hello you\n", "")
    assert say(capsys, monkeypatch, "all", "two", "me")[1] == "hello me\n"


def test_a_package_whose_command_does_not_load_costs_that_command_alone(capsys, monkeypatch):
    def greet() -> None:
        """Greet nobody."""
        print("hello")

    def broken() -> None:
        raise ImportError("No module named 'gone'")

    points = [SimpleNamespace(name="broken", load=broken), SimpleNamespace(name="greet", load=lambda: greet)]
    monkeypatch.setattr(cli, "app", typer.Typer(pretty_exceptions_enable=False))
    cli.app.command("other")(greet)
    monkeypatch.setattr(cli.metadata, "entry_points", lambda *, group: points if group == cli.COMMANDS else [])
    monkeypatch.setattr(cli, "add_plugin_commands", partial(cli.add_plugin_commands, cli.app))
    assert say(capsys, monkeypatch, "greet") == (
        0,
        "hello\n",
        "secateur: the command 'broken' is left out: No module named 'gone'\n",
    )


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
