"""KServe's folder gets a promoted package, whole and checked, also on a second start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.store import LocalStore
from deploy import storage_initializer
from deploy.storage_initializer import PULLING, initialize, main
from tests.deploy.stored_run import fresh_uri, put_run


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URI of a real registry with the model toy and its alias champion."""
    from deploy.promote import promote

    folder = tmp_path_factory.mktemp("registry")
    uri, store = fresh_uri(folder), LocalStore(folder / "store")
    refs = put_run(store, folder / "files")
    assert promote(store, uri, "toy", refs["export"], refs["gate"], refs["cascade"])["promoted"]
    return uri


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder in which alone anything may be written."""
    folder = tmp_path / "mnt" / "models"
    folder.mkdir(parents=True)
    (tmp_path / "mnt").chmod(0o555)
    yield folder
    (tmp_path / "mnt").chmod(0o755)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_the_champion_comes_into_the_mounted_folder(
    registry: str, volume: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry)
    monkeypatch.setenv("TMPDIR", str(volume))
    assert main(["models:/toy@champion", str(volume)]) == 0
    assert "models:/toy@champion -> " in capsys.readouterr().out
    first = names(volume)
    assert "package.json" in first
    assert not [name for name in first if name.startswith(".") or name.startswith("tmp")]
    assert not any(path.is_symlink() for path in volume.rglob("*"))
    assert names(volume.parent) == {"models"}
    (volume / "left-over").mkdir()
    initialize("models:/toy/1", volume, uri=registry)
    assert names(volume) == first


@pytest.mark.slow
def test_a_start_that_was_killed_is_made_good(registry: str, volume: Path) -> None:
    (volume / PULLING / "package").mkdir(parents=True)
    (volume / PULLING / "package" / "half").write_text("x")
    (volume / "moved-already").write_text("x")
    initialize("models:/toy@champion", volume, uri=registry)
    assert {PULLING, "moved-already"}.isdisjoint(names(volume))
    assert "package.json" in names(volume)


@pytest.mark.slow
def test_an_alias_that_is_missing_leaves_nothing_to_serve(registry: str, volume: Path) -> None:
    with pytest.raises((ValueError, OSError), match="nobody"):
        initialize("models:/toy@nobody", volume, uri=registry)
    assert names(volume) <= {PULLING}


def test_a_package_that_is_no_folder_below_is_moved_whole(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `pull` shows may be a link to a hidden version beside it."""

    def shown(name: str, folder: Path, *, uri: str = "") -> Path:
        version = folder.with_name(".package.versions") / "1"
        (version / "net" / "1").mkdir(parents=True)
        (version / "net" / "1" / "model.onnx").write_text(name)
        (version / "package.json").write_text("{}")
        folder.symlink_to(version)
        return folder

    from deploy.tracking import pull as module

    monkeypatch.setattr(module, "pull", shown)
    assert initialize("models:/net@champion", volume) == volume
    assert names(volume) == {"net", "package.json"}
    assert (volume / "net" / "1" / "model.onnx").read_text() == "models:/net@champion"


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("s3://bucket/net", lambda folder: None, "is no models:/ URI: give a storageUri such as"),
        ("models:/net@champion", lambda folder: (folder / "notes.txt").write_text("x"), "mount an empty volume"),
        ("models:/net@champion", lambda folder: folder.rmdir(), "is no folder: KServe mounts a volume there"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name, make, says, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    make(folder)
    assert main([name, str(folder)]) == 1
    assert says in capsys.readouterr().err
    assert not (folder / PULLING).exists()


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    source = Path(storage_initializer.__file__).read_text().partition("def initialize")[0]
    assert "mlflow" not in source
    assert "deploy.tracking" not in source.partition('"""\n\nfrom')[2]
