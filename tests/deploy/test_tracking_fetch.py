"""What is downloaded is checked before it is believed; what MLflow lacks is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compress.core.model import CorruptModel
from compress.core.stage import StageResult
from compress.run import import_model
from compress.store import LocalStore
from deploy.mlflow_store import MlflowStore
from deploy.package import build_package
from deploy.pull import check_package, load, output_difference, pull
from deploy.tracking import Unreachable
from deploy.tracking.__main__ import main
from deploy.tracking.connection import connected
from deploy.tracking.destination import Destination, experiment_id, find_run
from deploy.tracking.fetch import check_entry, check_files, publish
from deploy.tracking.registry import find_version
from deploy.tracking.stage_run import find_model
from tests.deploy.stored_run import fresh_uri, put, put_run
from tests.toys import toy_model

REPORT = {"validation_accuracy": 0.5}


@pytest.fixture
def entry(tmp_path: Path) -> tuple[Path, str]:
    store = LocalStore(tmp_path / "store")
    ref = put(store, "train", {}, REPORT, model=toy_model())
    folder = tmp_path / "download"
    shutil.copytree(store.folder(ref), folder)
    return folder, ref


def test_a_whole_entry_passes(entry: tuple[Path, str]) -> None:
    folder, ref = entry
    assert check_entry(folder, ref)["report"] == REPORT
    check_package(folder)


def test_an_imported_model_is_named_after_its_recorded_content(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    ref = import_model(toy_model(), store)
    assert check_entry(store.folder(ref), ref)["ref"] == ref
    path = store.folder(ref) / "entry.json"
    record = json.loads(path.read_text())
    record["identity"]["config"] = {"weights": "0"}
    path.write_text(json.dumps(record))
    with pytest.raises(CorruptModel, match="that of"):
        check_entry(store.folder(ref), ref)


def test_where_the_data_lay_does_not_count_for_the_name(tmp_path: Path) -> None:
    stores = LocalStore(tmp_path / "a"), LocalStore(tmp_path / "b")
    refs = []
    for store in stores:
        task = {"piece": {"name": "image_folder", "root": str(store.root)}, "digest": "d-0"}
        refs.append(put(store, "train", {}, REPORT, task=task))
        assert check_entry(store.folder(refs[-1]), refs[-1])["identity"]["task"] == task
    assert refs[0] == refs[1]
    record = stores[0].record(refs[0])
    record["identity"]["task"]["digest"] = "d-1"
    (stores[0].folder(refs[0]) / "entry.json").write_text(json.dumps(record))
    with pytest.raises(CorruptModel, match="that of"):
        check_entry(stores[0].folder(refs[0]), refs[0])


def test_a_record_of_something_else_is_refused(entry: tuple[Path, str]) -> None:
    folder, ref = entry
    with pytest.raises(CorruptModel, match="that of"):
        check_entry(folder, "train-0000000000000000")
    record = json.loads((folder / "entry.json").read_text())
    record["identity"]["config"] = {"seed": 1}
    (folder / "entry.json").write_text(json.dumps(record))
    with pytest.raises(CorruptModel, match="that of"):
        check_entry(folder, ref)
    (folder / "entry.json").unlink()
    with pytest.raises(CorruptModel, match="missing"):
        check_entry(folder, ref)


def test_files_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").write_text("x")
    with pytest.raises(CorruptModel, match="outside of"):
        check_files(tmp_path / "inside", {"../outside": "0"})


def test_a_folder_without_manifest_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="no secateur model"):
        check_package(tmp_path)


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    publish(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text() == "old"
    assert not (tmp_path / "new").exists()
    with pytest.raises(OSError, match="gone"):
        publish(tmp_path / "gone", tmp_path / "target")


@pytest.mark.slow
def test_a_pulled_package_gives_the_packaged_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from deploy.promote import promote

    uri, store = fresh_uri(tmp_path), LocalStore(tmp_path / "store")
    refs = put_run(store, tmp_path / "files")
    assert promote(store, uri, "toy", refs["export"], refs["gate"], refs["cascade"])["promoted"]
    folder = pull("toy@champion", tmp_path / "pulled", uri=uri)
    assert output_difference(folder) <= 1e-5
    assert load(folder).input == toy_model().input
    assert main(["pull", "models:/toy@champion", "--to", str(tmp_path / "again"), "--uri", uri]) == 0
    assert "largest difference" in capsys.readouterr().out
    assert main(["pull", "models:/toy@nobody", "--to", str(tmp_path / "none"), "--uri", uri]) == 1
    assert not (tmp_path / "none").exists()


def test_cascade_members_that_the_package_lacks_are_packed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    refs = put_run(store, tmp_path / "files")
    names = {"export": refs["export"], "gate": refs["gate"], "evaluation": refs["evaluate"], "cascade": refs["cascade"]}
    build_package(store, tmp_path / "package", names, name="toy")
    assert (tmp_path / "package" / "toy_cascade" / "source" / "large" / "weights.safetensors").is_file()
    assert not (tmp_path / "package" / "toy_cascade" / "source" / "small").exists()
    check_package(tmp_path / "package")


@pytest.mark.slow
def test_experiments_are_found_made_given_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = fresh_uri(tmp_path)
    with connected(uri) as client:
        made = experiment_id(client, Destination(uri=uri, experiment="a"))
        assert experiment_id(client, Destination(uri=uri, experiment="a")) == made
        assert client.get_experiment(made).artifact_location == (tmp_path / "mlartifacts").as_uri()
        client.delete_experiment(made)
        with pytest.raises(Unreachable, match="experiments restore"):
            experiment_id(client, Destination(uri=uri, experiment="a"))
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
        assert experiment_id(client, Destination(uri=uri, experiment="b")) == "7"
        with pytest.raises(ValueError, match="quotation mark"):
            find_run(client, made, {"secateur.ref": "a' OR 'b"})
        with pytest.raises(ValueError, match="quotation mark"):
            find_model(client, [made], {"secateur.ref": "a' OR 'b"})
        with pytest.raises(ValueError, match="quotation mark"):
            find_version(client, "a' OR 'b", "models:/m-0")


@pytest.mark.slow
def test_registry_aliases_of_what_was_never_pushed_and_plain_aliases(tmp_path: Path) -> None:
    store: Any = MlflowStore(LocalStore(tmp_path / "store"), fresh_uri(tmp_path))
    ref = import_model(toy_model(), store.local)
    store.alias(ref, "plain")
    assert store.resolve("plain") == ref
    with pytest.raises(Unreachable, match="push it first"):
        store.alias(ref, "toy@teacher")
    assert store.resolve("toy@teacher") == ref


def test_a_failing_disk_is_not_mistaken_for_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MlflowStore(LocalStore(tmp_path / "store"), "http://127.0.0.1:9")

    def full(*_: Any) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(store.local, "put", full)
    with pytest.raises(OSError, match="no space left"):
        store.put("train-0", {}, StageResult(report={}), 0.0)  # type: ignore[arg-type]
    assert not list(store.pending.glob("*"))
