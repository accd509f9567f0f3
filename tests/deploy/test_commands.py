"""`secateur promote`: what it registers, what it says, and how it ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from compress import cli
from compress.store import LocalStore
from deploy.description import read_package
from deploy.pull import pull
from tests.deploy.stored_run import fresh_uri, put_engine, put_run

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "SECATEUR_STORE"):
        monkeypatch.delenv(name, raising=False)


class Command:
    """`secateur promote` on a store, and what it answers."""

    def __init__(self, store: LocalStore, uri: str, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        self.store, self.uri, self.patch, self.capsys = store, uri, patch, capsys

    def __call__(self, *words: str) -> tuple[Any, str, str]:
        """Return the exit status and what was printed on standard output and standard error."""
        where = ["--name", "toy", "--uri", self.uri, "--store", str(self.store.root)]
        self.patch.setattr(sys, "argv", ["secateur", "promote", *words, *where])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = self.capsys.readouterr()
        return stop.value.code or 0, printed.out, printed.err


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(LocalStore(tmp_path / "store"), fresh_uri(tmp_path), monkeypatch, capsys)


def champion(uri: str) -> str:
    from mlflow import MlflowClient

    return str(MlflowClient(uri, uri).get_model_version_by_alias("toy", "champion").version)


def test_one_version_gets_the_engines_of_several_exports(command: Command, tmp_path: Path) -> None:
    refs = put_run(command.store, tmp_path / "files")
    engines = [put_engine(command.store, tmp_path / "files", refs["prune"], name) for name in ("8.6", "9.0")]
    command.store.alias(refs["export"], "student")
    command.store.alias(engines[0], "student-8.6")
    plain = ("student", "--gate", refs["gate"][:9], "--cascade", refs["cascade"])
    assert command(*plain) == (0, "toy: version 1 is the champion: models:/toy@champion\n", "")
    more = (*plain, "--engine", "student-8.6", "--engine", engines[1])
    assert command(*more)[:2] == (0, "toy: version 2 is the champion, before it version 1: models:/toy@champion\n")
    turned = (*plain, "--engine", engines[1], "--engine", "student-8.6")
    assert command(*turned)[:2] == (0, "toy: version 2 is the champion already: models:/toy@champion\n")
    pull("models:/toy@champion", tmp_path / "pulled", uri=command.uri, also=["tensorrt"])
    folder = tmp_path / "pulled" / "toy_tensorrt" / "2"
    assert {path.name for path in folder.iterdir()} == {"model.8.6.plan", "model.9.0.plan"}
    package = read_package(tmp_path / "pulled")
    assert package["refs"]["engines"] == sorted(engines)
    assert package["triton"]["cascade"]["name"] == "toy_cascade"


def test_a_failed_gate_is_told_and_ends_with_one(command: Command, tmp_path: Path) -> None:
    refs = put_run(command.store, tmp_path / "files", is_passed=False)
    status, out, err = command(refs["export"], "--gate", refs["gate"])
    assert (status, out) == (1, "")
    assert err == "secateur: toy: nothing was promoted: too slow\n"


def test_an_engine_that_does_not_fit_is_refused_before_the_registry_is_asked(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = put_run(command.store, tmp_path / "files")
    stranger = put_engine(command.store, tmp_path / "files", refs["train"], "9.0")
    assert command(refs["export"], "--gate", refs["gate"])[0] == 0
    monkeypatch.setattr("deploy.promote.retrying", lambda *_: pytest.fail("the registry was asked"))
    status, out, err = command(refs["export"], "--gate", refs["gate"], "--engine", stranger)
    assert (status, out) == (2, "")
    assert f"{stranger} is no export of {refs['prune']}" in err
    assert champion(command.uri) == "1"


def test_a_name_that_nobody_has_is_answered_with_the_nearest(command: Command, tmp_path: Path) -> None:
    refs = put_run(command.store, tmp_path / "files")
    command.store.alias(refs["export"], "student")
    status, _, err = command("studnet", "--gate", refs["gate"])
    assert status == 2
    assert "'student'" in err
