"""The init container fills a mounted folder with what a service chose, and never empties it for nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.store import LocalStore
from deploy import storage_initializer
from deploy.description import read_package
from deploy.promote import promote
from deploy.pull import Found, check_package, load
from deploy.storage_initializer import INCOMING, PARTIAL, fill, keep, main
from deploy.tracking import Unreachable
from deploy.triton import prepare
from tests.deploy.stored_run import fresh_uri, put_package, put_run

ADDRESS = "models://toy@champion"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def registry(package: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let the registry answer with the package, or fail with what the test puts under `error`."""
    state: dict[str, Any] = {"error": None}

    def fetch(uri: str, found: Found, folder: Path, *, backend: str = "") -> Path:
        target = folder / "downloaded"
        shutil.copytree(package, target)
        if state["error"]:
            raise state["error"]
        prepare(target, version=found.version, backend=backend)
        return target

    def asked(uri: str, question: Callable[[Any], Any]) -> Any:
        return Found("m-0", 3)

    monkeypatch.setattr(storage_initializer, "fetch", fetch)
    monkeypatch.setattr(storage_initializer, "retrying", asked)
    return state


def models(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_a_chosen_cascade_comes_with_its_members_and_nothing_else(registry: Any, package: Path, tmp_path: Path) -> None:
    names = read_package(package)["triton"]["models"]
    members = {name for name in names if name.startswith("toy_cascade")}
    assert members < set(names)
    fill(f"{ADDRESS}?backend=python&load=toy_cascade", tmp_path)
    check_package(tmp_path)
    assert models(tmp_path) == members
    assert len(members) == 4
    assert set(read_package(tmp_path)["triton"]["models"]) == members
    assert read_package(tmp_path)["triton"]["models"][-1] == "toy_cascade", "still in the order of loading"
    assert (tmp_path / read_package(tmp_path)["onnx"]).parts[-6:-3] == ("toy_cascade", "source", "unserved")
    assert load(tmp_path).input, "the network is still there, where no server sees it"
    assert all((tmp_path / name / "3" / "model.py").is_file() for name in members)
    fill(f"{ADDRESS}?load=toy", tmp_path)
    assert models(tmp_path) == {"toy"}
    assert (tmp_path / read_package(tmp_path)["onnx"]).is_file()
    fill(ADDRESS, tmp_path)
    assert models(tmp_path) == set(names)


def test_a_model_that_the_package_does_not_have_is_named(registry: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="load='toi' is no Triton model of the package, which has toy, "):
        fill(f"{ADDRESS}?load=toi", tmp_path)


def test_keeping_all_changes_nothing(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "copy")
    keep(tmp_path / "copy", read_package(package)["triton"]["models"])
    assert read_package(tmp_path / "copy") == read_package(package)


def test_while_mlflow_is_away_a_whole_package_stays(
    registry: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(ADDRESS, tmp_path)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*")}
    registry["error"] = Unreachable("MLflow is away.")
    fill(ADDRESS, tmp_path)
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*")} == before
    assert "MLflow is away. Keeping the package" in caplog.text


@pytest.mark.parametrize("damage", ["changed", "half replaced", "never filled"])
def test_while_mlflow_is_away_what_is_not_whole_is_not_served(registry: Any, tmp_path: Path, damage: str) -> None:
    if damage != "never filled":
        fill(ADDRESS, tmp_path)
    if damage == "changed":
        (tmp_path / "README.md").write_text("changed")
    if damage == "half replaced":
        (tmp_path / INCOMING).touch()
    registry["error"] = Unreachable("MLflow is away.")
    with pytest.raises(Unreachable):
        fill(ADDRESS, tmp_path)
    registry["error"] = None
    fill(ADDRESS, tmp_path)
    check_package(tmp_path)


def test_a_download_that_is_wrong_leaves_what_was_there(registry: Any, tmp_path: Path) -> None:
    fill(ADDRESS, tmp_path)
    registry["error"] = ValueError("another hash")
    with pytest.raises(ValueError, match="another hash"):
        fill(ADDRESS, tmp_path)
    assert not (tmp_path / PARTIAL).exists()
    check_package(tmp_path)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="empty folder"):
        fill("models:/toy@champion", tmp_path, uri="http://127.0.0.1:9")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_a_real_registry_fills_a_mounted_folder_and_a_killed_call_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, store, mount = fresh_uri(tmp_path), LocalStore(tmp_path / "store"), tmp_path / "models"
    refs = put_run(store, tmp_path / "files")
    assert promote(store, uri, "toy", refs["export"], refs["gate"], refs["cascade"])["promoted"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mount.mkdir()
    node = mount.stat().st_ino
    assert main([f"{ADDRESS}?backend=python", str(mount)]) == 0
    assert mount.stat().st_ino == node, "a mounted folder cannot be replaced"
    check_package(mount)
    assert load(mount).input
    assert not [path for path in mount.rglob("*") if path.is_symlink()], "a mount is seen without what is beside it"
    assert not [path.name for path in mount.iterdir() if path.name.startswith(".")]
    assert models(mount) == set(read_package(mount)["triton"]["models"])
    assert read_package(mount)["triton"]["backend"] == "python"
    (mount / "package.json").unlink()
    (mount / INCOMING).touch()
    (mount / PARTIAL / "half").mkdir(parents=True)
    fill("models:/toy@champion", mount, uri=uri)
    check_package(mount)
    assert main(["models://toy@nobody", str(tmp_path / "other")]) == 1
    assert main(["models://toy@champion"]) == 2
    assert main(["s3://bucket/net", str(tmp_path / "third")]) == 1
    assert "its aliases are" in capsys.readouterr().err
