"""Promotion: refused without a passed gate, done once, and never over somebody else's back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow.models import get_model_info

from compress.core.model import CorruptModel
from compress.store import LocalStore
from deploy import promote as promotion
from deploy.package import build_package
from deploy.promote import promote, pull_commands
from deploy.pull import check_package, onnx_file, pull
from deploy.tracking.connection import connected
from tests.deploy.stored_run import fresh_uri, put_engine, put_run
from tests.deploy.test_triton import parsed

pytestmark = pytest.mark.slow
#: Identity of the package of the run of seed 0, from before packages could hold several engines.
PACKAGE_OF_SEED_0 = "c955d79c7b2fd709"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


def ask(uri: str, store: LocalStore, refs: dict[str, Any], name: str = "toy") -> dict[str, Any]:
    return promote(store, uri, name, refs["export"], refs["gate"], refs["cascade"])


def champion(uri: str, name: str = "toy") -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri, uri).get_model_version_by_alias(name, "champion")


def test_a_failed_gate_promotes_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    refs = put_run(store, tmp_path / "files", is_passed=False)
    answer = ask("http://127.0.0.1:9", store, refs)
    assert answer["promoted"] is False
    assert answer["reasons"] == ["too slow"]


def test_a_gate_that_judged_another_export_promotes_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    refs = put_run(store, tmp_path / "files")
    answer = ask("http://127.0.0.1:9", store, {**refs, "export": refs["prune"]})
    assert not answer["promoted"]
    assert "judged" in answer["reasons"][0]


def test_a_cascade_that_the_gate_did_not_judge_promotes_nothing(tmp_path: Path) -> None:
    """Its numbers would stand beside another one's networks."""
    store = LocalStore(tmp_path / "store")
    refs = put_run(store, tmp_path / "files")
    others = put_run(store, tmp_path / "others", seed=1)
    assert others["cascade"] != refs["cascade"]
    answer = ask("http://127.0.0.1:9", store, {**refs, "cascade": others["cascade"]})
    assert not answer["promoted"]
    assert f"judged the cascade {refs['cascade']}, not {others['cascade']}" in answer["reasons"][0]


@pytest.mark.parametrize("name", ["a/b", "a:b", " "])
def test_a_name_that_mlflow_refuses_is_said_to_be_one(tmp_path: Path, name: str) -> None:
    store = LocalStore(tmp_path / "store")
    refs = put_run(store, tmp_path / "files")
    with pytest.raises(ValueError, match="cannot name a registered model"):
        promote(store, "http://127.0.0.1:9", name, refs["export"], refs["gate"])


def test_an_unreachable_registry_is_a_reason_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_MLFLOW_ATTEMPTS", "1")
    store = LocalStore(tmp_path / "store")
    answer = ask("http://127.0.0.1:9", store, put_run(store, tmp_path / "files"))
    assert not answer["promoted"]
    assert "http://127.0.0.1:9" in answer["reasons"][0]


def test_an_answer_that_got_lost_is_not_called_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry moves the alias, and nobody hears of it any more."""
    from mlflow import MlflowClient

    uri, store = fresh_uri(tmp_path), LocalStore(tmp_path / "store")
    refs = put_run(store, tmp_path / "files")
    really = MlflowClient.set_registered_model_alias

    def move_and_vanish(client: MlflowClient, name: str, alias: str, version: str) -> None:
        really(client, name, alias, version)
        if alias == "champion":
            monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", gone)
            gone()

    def gone(*_: Any, **__: Any) -> None:
        raise ConnectionError("the server went away")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", move_and_vanish)
    monkeypatch.setenv("SECATEUR_MLFLOW_ATTEMPTS", "2")
    answer = ask(uri, store, refs)
    assert not answer["promoted"]
    assert "Nobody answered whether toy@champion moved" in answer["reasons"][0]
    assert "unchanged" not in answer["reasons"][0]
    monkeypatch.undo()
    again = ask(uri, store, refs)
    assert (again["promoted"], again["already"], again["version"]) == (True, True, "1")


def test_a_package_that_cannot_be_written_is_not_blamed_on_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("the package")

    monkeypatch.setattr(promotion, "build_package", full)
    with pytest.raises(OSError, match="the package"):
        ask("http://127.0.0.1:9", store, put_run(store, tmp_path / "files"))


def test_promotion_moves_both_aliases_once_and_remembers_the_last_champion(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri, store = fresh_uri(tmp_path), LocalStore(tmp_path / "store")
    first, second = (put_run(store, tmp_path / "files", seed=seed) for seed in (0, 1))
    one = ask(uri, store, first)
    assert one["promoted"]
    assert one["version"] == "1"
    assert one["previous"] == ""
    assert one["export"] == first["export"]
    again = ask(uri, store, first)
    assert again["already"]
    assert again["version"] == "1"
    two = ask(uri, store, second)
    assert two["version"] == "2"
    assert two["previous"] == "1"
    version = champion(uri)
    assert str(version.version) == "2"
    assert version.tags["secateur.previous_champion"] == "1"
    assert version.tags["secateur.ref"] == second["export"]
    assert str(MlflowClient(uri, uri).get_model_version_by_alias("toy", "challenger").version) == "2"
    assert "| Student |" in version.description
    with connected(uri):
        signature = get_model_info("models:/toy@champion").signature
    assert signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert signature.outputs.inputs[0].shape == (-1, 3)


def test_engines_of_further_exports_make_another_package(tmp_path: Path) -> None:
    uri, store = fresh_uri(tmp_path), LocalStore(tmp_path / "store")
    refs = put_run(store, tmp_path / "files")
    engines = [put_engine(store, tmp_path / "files", refs["prune"], name) for name in ("8.6", "9.0")]
    given = (store, uri, "toy", refs["export"], refs["gate"], refs["cascade"])
    assert promote(*given)["version"] == "1"
    assert champion(uri).tags["secateur.package"] == PACKAGE_OF_SEED_0, "packages keep the identities that they had"
    assert promote(*given, engines)["version"] == "2"
    again = promote(*given, engines[::-1])
    assert (again["version"], again["already"]) == ("2", True), "in which order they are named does not count"
    pull("models:/toy@champion", tmp_path / "pulled", uri=uri, also=["tensorrt"])
    config = parsed((tmp_path / "pulled" / "toy_tensorrt" / "config.pbtxt").read_text())
    assert dict(config.cc_model_filenames) == {"8.6": "model.8.6.plan", "9.0": "model.9.0.plan"}


def test_engines_that_do_not_fit_are_refused_before_the_registry_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")
    refs = put_run(store, tmp_path / "files")
    one = put_engine(store, tmp_path / "files", refs["prune"], "8.6")
    stranger = put_engine(store, tmp_path / "files", refs["train"], "9.0")
    monkeypatch.setattr(promotion, "retrying", lambda *_: pytest.fail("the registry was asked"))
    for engines, said in (
        ([one, one], "name one of them"),
        ([stranger], "is no export of"),
        ([refs["export"]], "no engine"),
    ):
        with pytest.raises(ValueError, match=said):
            promote(store, "http://127.0.0.1:9", "toy", refs["export"], refs["gate"], engines=engines)


def test_a_champion_that_changed_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, store = fresh_uri(tmp_path), LocalStore(tmp_path / "store")
    first, second = (put_run(store, tmp_path / "files", seed=seed) for seed in (0, 1))
    ask(uri, store, first)
    really, asked = promotion.version_of, []

    def version_of(client: Any, name: str, alias: str) -> Any:
        asked.append(alias)
        return None if len(asked) == 1 else really(client, name, alias)

    monkeypatch.setattr(promotion, "version_of", version_of)
    answer = ask(uri, store, second)
    assert not answer["promoted"]
    assert "meanwhile" in answer["reasons"][0]
    assert str(champion(uri).version) == "1"


def test_the_package_leaves_out_what_the_gate_demoted_and_notices_changes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    refs = put_run(store, tmp_path / "files")
    names = {"export": refs["export"], "gate": refs["gate"], "evaluation": refs["evaluate"], "cascade": ""}
    folder = tmp_path / "package"
    build_package(store, folder, names, name="toy")
    assert not (folder / "toy_int8").exists()
    assert onnx_file(folder) == folder / "toy" / "1" / "model.onnx"
    assert not (folder / "toy_cascade").exists()
    check_package(folder)
    onnx_file(folder).write_bytes(b"changed")
    with pytest.raises(CorruptModel, match="changed"):
        check_package(folder)
    (folder / "toy" / "extra.pkl").write_bytes(b"")
    with pytest.raises(CorruptModel, match="nobody recorded"):
        check_package(folder)


def test_pull_refuses_to_overwrite(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="choose another folder"):
        pull("models:/toy@champion", tmp_path, uri="http://127.0.0.1:9")


def test_pull_commands_name_the_champion() -> None:
    assert all("models:/toy@champion" in text for text in pull_commands("toy", "http://h").values())
