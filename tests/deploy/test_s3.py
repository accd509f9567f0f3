"""s3:// over boto3 against a real server that speaks S3's protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

import compress.data.idx
import compress.data.image_folder  # noqa: F401
import deploy.s3
from compress.core.task import TASKS
from compress.data.source import FETCHERS, MissingData, fetch
from tests.compress.data.tiny_sets import write_folder, write_idx

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket "store", with environment and cache set up for it."""
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    store = boto3.resource("s3").create_bucket(Bucket="store")
    yield store
    store.objects.all().delete()
    store.delete()


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys in the order in which they are downloaded."""
    keys: list[str] = []
    download = deploy.s3.Bucket._download

    def noted(self: deploy.s3.Bucket, key: str, *facts: Any) -> Path:
        keys.append(key)
        return download(self, key, *facts)

    monkeypatch.setattr(deploy.s3.Bucket, "_download", noted)
    return keys


def upload(bucket: Any, folder: Path, prefix: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            bucket.upload_file(str(path), f"{prefix}/{path.relative_to(folder).as_posix()}")


def test_an_object_is_downloaded_once_and_again_when_it_changes(bucket: Any, downloads: list[str]) -> None:
    bucket.put_object(Key="a/b.txt", Body=b"one")
    path = fetch("s3://store/a/b.txt")
    assert path.read_bytes() == b"one"
    assert path.is_relative_to(os.environ["SECATEUR_CACHE"])
    assert fetch("s3://store/a/b.txt") == path
    assert downloads == ["a/b.txt"]
    bucket.put_object(Key="a/b.txt", Body=b"two")
    assert fetch("s3://store/a/b.txt").read_bytes() == b"two"
    assert downloads == ["a/b.txt"] * 2
    assert not list(Path(os.environ["SECATEUR_CACHE"]).rglob(".partial-*"))


def test_a_copy_that_was_cut_is_fetched_again(bucket: Any, downloads: list[str]) -> None:
    bucket.put_object(Key="x", Body=b"whole")
    fetch("s3://store/x").write_bytes(b"who")
    assert fetch("s3://store/x").read_bytes() == b"whole"
    assert len(downloads) == 2


def test_a_prefix_mirrors_what_lies_beneath(bucket: Any, downloads: list[str]) -> None:
    for key in ("set/a", "set/deep/b", "setting", "set/marker/"):
        bucket.put_object(Key=key, Body=key.encode())

    def found() -> dict[str, bytes]:
        folder = fetch("s3://store/set")
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert found() == {"a": b"set/a", "deep/b": b"set/deep/b"}
    assert found() == {"a": b"set/a", "deep/b": b"set/deep/b"}
    assert sorted(downloads) == ["set/a", "set/deep/b"]
    bucket.put_object(Key="set/a", Body=b"new")
    bucket.Object("set/deep/b").delete()
    assert found() == {"a": b"new"}
    assert len(downloads) == 3
    assert (fetch("s3://store/") / "setting").read_bytes() == b"setting"


def test_a_file_gives_way_to_a_folder_of_its_name(bucket: Any) -> None:
    bucket.put_object(Key="x", Body=b"file")
    fetch("s3://store/x")
    bucket.Object("x").delete()
    bucket.put_object(Key="x/y", Body=b"below")
    assert (fetch("s3://store/x") / "y").read_bytes() == b"below"


def test_keys_that_are_file_and_folder_at_once_are_refused(bucket: Any) -> None:
    bucket.put_object(Key="set/x", Body=b"file")
    bucket.put_object(Key="set/x/y", Body=b"below")
    with pytest.raises(ValueError, match="one key is the folder of another"):
        fetch("s3://store/set")


def test_missing_things_are_named(bucket: Any) -> None:
    with pytest.raises(MissingData, match="s3://store/nothing holds no object"):
        fetch("s3://store/nothing")
    with pytest.raises(ValueError, match="there is no bucket 'absent'"):
        fetch("s3://absent/x")
    for uri in ("s3://", "s3://../x", "s3://a/x"):
        with pytest.raises(ValueError, match="no name of a bucket"):
            fetch(uri)


@pytest.mark.parametrize("key", ["../../outside", "set/../../outside", "./x", "a//b", "a\\..\\b"])
def test_no_key_leaves_the_cache(bucket: Any, key: str) -> None:
    bucket.put_object(Key="set/fine", Body=b"")
    with pytest.raises(ValueError, match="is refused"):
        fetch(f"s3://store/{key}")


def test_no_listed_key_leaves_the_cache(tmp_path: Path) -> None:
    class Hostile:
        def get_paginator(self, _: str) -> Hostile:
            return self

        def paginate(self, **_: str) -> list[dict[str, Any]]:
            return [{"Contents": [{"Key": "set/../../../outside", "ETag": "1", "Size": 1}]}]

    with pytest.raises(ValueError, match="is refused"):
        deploy.s3.Bucket(client=Hostile(), name="store", cache=tmp_path / "deep").folder("set", 1)
    assert list(tmp_path.rglob("outside")) == []


def test_a_link_in_the_cache_is_not_followed(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="out/x", Body=b"")
    (tmp_path / "elsewhere").mkdir()
    objects = tmp_path / "cache" / "s3" / "store" / "objects"
    objects.mkdir(parents=True)
    (objects / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="Remove the link"):
        fetch("s3://store/out/x")


def test_mlflows_endpoint_serves_when_no_other_is_set(
    bucket: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_object(Key="x", Body=b"here")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
    assert fetch("s3://store/x").read_bytes() == b"here"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert deploy.s3._client().meta.endpoint_url == "http://127.0.0.1:9"


def test_a_silent_endpoint_is_named(bucket: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(ConnectionError, match="AWS_ENDPOINT_URL"):
            fetch("s3://store/x")


def test_missing_credentials_are_explained(bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with monkeypatch.context() as patch:
        patch.setattr("boto3.DEFAULT_SESSION", None)
        with pytest.raises(ValueError, match="no credentials"):
            fetch("s3://store/x")


@pytest.mark.parametrize(
    ("code", "message"), [("AccessDenied", "access was refused"), ("SlowDown", "the store answered")]
)
def test_other_answers_are_explained(code: str, message: str) -> None:
    error = ClientError({"Error": {"Code": code, "Message": "no"}}, "HeadObject")
    with pytest.raises(ValueError, match=message), deploy.s3._explained("s3://store/x", "store"):
        raise error


def test_an_error_of_the_store_is_not_taken_for_a_missing_key(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def head_object(self, **_: str) -> None:
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")

    monkeypatch.setattr(deploy.s3, "_client", Refusing)
    with pytest.raises(ValueError, match=r"access was refused \(403\)"):
        fetch("s3://store/x")


def test_without_boto3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(ValueError, match=r"secateur\[s3\]"):
        fetch("s3://store/x")


def test_a_task_reads_its_files_from_a_bucket(bucket: Any, downloads: list[str], tmp_path: Path) -> None:
    write_idx(tmp_path / "local" / "fashion-mnist")
    upload(bucket, tmp_path / "local", "some/prefix")
    bucket.put_object(Key="some/prefix/unrelated", Body=b"")
    remote = TASKS.bind("fashion_mnist", root="s3://store/some/prefix", validation=10)()
    local = TASKS.bind("fashion_mnist", root=str(tmp_path / "local"), validation=10)()
    assert remote.digest == local.digest
    (x_BCHW, _), (other_BCHW, _) = (next(task.batches("train", batch_size=50)) for task in (remote, local))
    assert x_BCHW.equal(other_BCHW)
    assert len(downloads) == 4
    with pytest.raises(MissingData, match=r"s3://store/empty/mnist/train-images-idx3-ubyte\.gz"):
        TASKS.bind("mnist", root="s3://store/empty")()


def test_a_task_reads_a_folder_of_pictures_from_a_bucket(bucket: Any, tmp_path: Path) -> None:
    write_folder(tmp_path / "local", {"train": 6, "test": 2})
    upload(bucket, tmp_path / "local", "pictures")
    task = TASKS.bind("image_folder", root="s3://store/pictures", size=8, validation=2)().opened()
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [10, 2, 4]
    assert task.split("test").images(torch.arange(4)).shape == (4, 3, 8, 8)
    bucket.Object("pictures/train/ant/00.png").delete()
    again = TASKS.bind("image_folder", root="s3://store/pictures", size=8, validation=2)()
    assert again.digest != task.digest
    assert len(again.split("train")) == 9


def test_the_card_describes_the_fetcher() -> None:
    assert FETCHERS["s3"].options["num_connections"].default == 8
