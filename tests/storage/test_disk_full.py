"""A disk that is really full: a small file system in memory, mounted by root, filled to the brim."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from compress import catalogue
from compress.run import run_stage, task_of
from compress.store import LocalStore, StoreFull
from deploy.mlflow_store import MlflowStore, pending_refs
from deploy.promote import promote
from deploy.pull import Versions, check_package, pull
from deploy.tracking.connection import connected
from tests.deploy.stored_run import fresh_uri, put, put_run
from tests.storage import servers
from tests.toys import toy_model

MB = 1 << 20
REPORT = {"validation_accuracy": 0.5}


class Disk:
    """A file system of a few megabytes."""

    def __init__(self, root: Path) -> None:
        self.root, self.ballast = root, root / "ballast"

    def fill(self, left: int = 0) -> None:
        """Leave no more than `left` bytes."""
        self.ballast.unlink(missing_ok=True)
        with self.ballast.open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(self.root).free - left)))

    def free(self) -> None:
        self.ballast.unlink()

    def others(self) -> set[str]:
        """Names of all files but the ballast."""
        paths = (path for path in self.root.rglob("*") if path.is_file() and path != self.ballast)
        return {str(path.relative_to(self.root)) for path in paths}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(root)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root and CAP_SYS_ADMIN")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


def stored(folder: Path, seed: int) -> tuple[LocalStore, dict[str, Any]]:
    store = LocalStore(folder / "store")
    return store, put_run(store, folder / "files", seed=seed)


@pytest.mark.parametrize("left", [0, 4096, 8192])
def test_a_result_that_does_not_fit_is_not_stored_and_the_others_stay(disk: Disk, left: int) -> None:
    store = MlflowStore(LocalStore(disk.root / "store"), f"sqlite:///{disk.root.parent / 'none' / 'mlflow.db'}")
    store._push = lambda *_: None  # type: ignore[method-assign]
    first = put(store, "train", {}, REPORT, model=toy_model())
    before = disk.others()
    disk.fill(left)
    with pytest.raises(StoreFull, match=f"no space left for prune-.*free space under {store.local.root} and run again"):
        put(store, "prune", {"model": first}, REPORT, model=toy_model(1))
    assert disk.others() == before
    assert pending_refs(store) == [first]
    disk.free()
    second = put(store, "prune", {"model": first}, REPORT, model=toy_model(1))
    assert store.get(first).model is not None
    assert store.get(second).model is not None


@pytest.mark.slow
def test_a_stage_whose_checkpoints_find_no_space_says_so_and_goes_on_later(disk: Disk) -> None:
    catalogue.load()
    task, store = task_of(json.dumps({"name": "digits", "limit": 128})), LocalStore(disk.root / "store")
    net = {"name": "resnet_cifar", "depth": 8, "width": 8}
    config = json.dumps({"builder": net, "epochs": 2, "batch_size": 64})
    disk.fill(40_000)
    with pytest.raises(StoreFull, match=r"no space left for train-.*and run again"):
        run_stage("train", config, {}, task, store)
    assert store.refs() == []
    disk.free()
    outcome = run_stage("train", config, {}, task, store)
    assert not outcome.is_reused
    assert store.refs() == [outcome.entry.ref]


@pytest.mark.slow
@pytest.mark.parametrize("is_served", [False, True] if servers.IS_WHOLE else [False])
def test_a_pull_that_does_not_fit_leaves_the_version_that_is_shown(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_served: bool
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")  # MLflow tries each file four times
    link = disk.root / "champion"
    with ExitStack() as stack:
        uri = fresh_uri(tmp_path)
        if is_served:
            uri = stack.enter_context(servers.mlflow(tmp_path / "s", uri, stack.enter_context(servers.moto()))).uri
        for seed in (0, 1):
            local, refs = stored(tmp_path, seed)
            assert promote(local, uri, "toy", refs["export"], refs["gate"])["promoted"]
        pull("models:/toy/1", link, uri=uri)
        before = disk.others()
        for left in (0, 40_000):
            disk.fill(left)
            with pytest.raises(OSError, match=r"No space left") as caught:
                pull("models:/toy/2", link, uri=uri)
            assert caught.value.errno == errno.ENOSPC
            assert Versions(link).current().startswith("1-")
            check_package(link)
            assert disk.others() == before
        print(caught.value)
        disk.free()
        pull("models:/toy/2", link, uri=uri)
        assert Versions(link).current().startswith("2-")
        check_package(link)
        other = MlflowStore(LocalStore(disk.root / "store"), uri)
        with connected(uri):
            MlflowStore(local, uri)._push(refs["train"], other.destination, [])
        disk.fill(8192)
        with pytest.raises(OSError, match="No space left"):
            other.get(refs["train"])
        assert not other.local.has(refs["train"])
        disk.free()
        assert other.get(refs["train"]).model is not None


@pytest.mark.slow
def test_a_package_that_does_not_fit_touches_no_registry(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, (store, refs) = fresh_uri(tmp_path), stored(tmp_path, 0)
    monkeypatch.setattr(tempfile, "tempdir", str(disk.root))
    for left in (8192, 64_000):
        disk.fill(left)
        with pytest.raises(StoreFull, match="no space left for the package of 'toy': free space under"):
            promote(store, uri, "toy", refs["export"], refs["gate"])
        with connected(uri) as client:
            assert client.search_registered_models() == []
        assert disk.others() == set()
    disk.free()
    assert promote(store, uri, "toy", refs["export"], refs["gate"])["version"] == "1"


def test_data_that_do_not_fit_are_not_kept(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.data.source import fetch

    monkeypatch.setenv("SECATEUR_CACHE", str(disk.root / "cache"))
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    with servers.moto() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        for size in (2 * MB, 12 * MB):
            store.client().put_object(Bucket=servers.BUCKET, Key=f"{size}", Body=os.urandom(size))
        with pytest.raises(OSError, match="free space or set SECATEUR_CACHE"):
            fetch(f"s3://{servers.BUCKET}/{12 * MB}")
        disk.fill(MB)
        with pytest.raises(OSError, match="free space or set SECATEUR_CACHE"):
            fetch(f"s3://{servers.BUCKET}/{2 * MB}")
        assert disk.others() == set()
        disk.free()
        assert fetch(f"s3://{servers.BUCKET}/{2 * MB}").stat().st_size == 2 * MB
