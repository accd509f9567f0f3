"""Objects from S3: in parts, checked by size and hash, with a store in front of which things go wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import deploy.s3_transfer
from compress.data.source import fetch
from deploy.s3_transfer import Damaged, check, transfer
from tests.storage import fault_proxy, servers

MB = 1 << 20


class Place(NamedTuple):
    """The store as it is, and what makes it fail for its users."""

    client: Any
    faults: fault_proxy.Faults

    def facts(self, key: str) -> dict[str, Any]:
        head = self.client.head_object(Bucket=servers.BUCKET, Key=key)
        return {"size_bytes": head["ContentLength"], "etag": head["ETag"]}


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[servers.Store, servers.Store, fault_proxy.Faults]]:
    with servers.moto() as real, fault_proxy.proxy(real) as (store, faults):
        yield real, store, faults


@pytest.fixture
def place(stores: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    real, store, faults = stores
    for name in ("AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    return Place(real.client(), faults)


def put(place: Place, key: str, body: bytes, **more: str) -> str:
    place.client.put_object(Bucket=servers.BUCKET, Key=key, Body=body, **more)
    return f"s3://{servers.BUCKET}/{key}"


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (fault_proxy.cut_download, "try again|Check AWS_ENDPOINT_URL"),
        (fault_proxy.changed_download, "have another hash than the store's; try again"),
        (fault_proxy.hang_up, "Check AWS_ENDPOINT_URL"),
    ],
)
def test_what_does_not_arrive_whole_is_not_kept(place: Place, tmp_path: Path, fault: Any, said: str) -> None:
    uri = put(place, "file", bytes(range(256)) * 64)
    with place.faults.having(fault), pytest.raises(ConnectionError, match=said):
        fetch(uri)
    assert kept(tmp_path) == []
    assert fetch(uri).read_bytes() == bytes(range(256)) * 64


def test_a_busy_store_is_asked_again_and_then_named(place: Place, tmp_path: Path) -> None:
    uri = put(place, "busy", b"content")
    with place.faults.having(num_busy=2):
        assert fetch(uri).read_bytes() == b"content"
    put(place, "busy", b"other")
    with place.faults.having(num_busy=1_000_000), pytest.raises(ConnectionError, match=r"busy or broken.*Try again"):
        fetch(uri)
    assert fetch(uri).read_bytes() == b"other"


@pytest.mark.slow
def test_a_slow_store_is_only_slow(place: Place) -> None:
    uri = put(place, "slow", b"0123456789abcdef")
    with place.faults.having(fault_proxy.slow):
        assert fetch(uri).read_bytes() == b"0123456789abcdef"


def test_a_folder_keeps_what_arrived_before_the_fault(place: Place, tmp_path: Path) -> None:
    for number in range(4):
        put(place, f"set/{number}", b"%d" % number)
    fetch(f"s3://{servers.BUCKET}/set/1")
    with place.faults.having(fault_proxy.changed_download), pytest.raises(ConnectionError, match="another hash"):
        fetch(f"s3://{servers.BUCKET}/set")
    assert [path.read_text() for path in kept(tmp_path) if path.name == "1"] == ["1"]
    folder = fetch(f"s3://{servers.BUCKET}/set")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {str(n): str(n) for n in range(4)}


def test_an_upload_in_parts_is_compared_part_by_part(place: Place, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(hashlib.sha256(b"seed").digest() * (17 * MB // 32))
    place.client.upload_file(str(source), servers.BUCKET, "large", ExtraArgs={"Metadata": {}})
    facts = place.facts("large")
    assert facts["etag"].strip('"').endswith("-3"), "boto3 sent three parts"
    transfer(place.client, servers.BUCKET, "large", target, **facts)
    assert target.read_bytes() == source.read_bytes()
    target.write_bytes(fault_proxy.changed(source.read_bytes()))
    with pytest.raises(Damaged, match="another hash"):
        deploy.s3_transfer._check_parts(
            place.client, servers.BUCKET, "large", target,
            deploy.s3_transfer._MD5_OF_PARTS.fullmatch(facts["etag"].strip('"')),
        )  # fmt: skip


@pytest.mark.parametrize("algorithm", ["SHA256", "SHA1", "CRC32"])
def test_the_stores_checksum_decides_where_the_etag_is_no_md5(place: Place, tmp_path: Path, algorithm: str) -> None:
    body, path = b"content", tmp_path / "file"
    put(place, algorithm, body, ChecksumAlgorithm=algorithm)
    facts = place.facts(algorithm) | {"etag": '"no-md5"'}

    class Store:
        def head_object(self, **options: Any) -> dict[str, Any]:
            return place.client.head_object(**options) | {"ETag": '"no-md5"'}

    path.write_bytes(body)
    check(Store(), servers.BUCKET, algorithm, path, **facts)
    path.write_bytes(fault_proxy.changed(body))
    with pytest.raises(Damaged, match="another hash"):
        check(Store(), servers.BUCKET, algorithm, path, **facts)
    path.write_bytes(body[:-1])
    with pytest.raises(Damaged, match="6 of 7 bytes arrived"):
        check(Store(), servers.BUCKET, algorithm, path, **facts)


def test_an_object_that_was_replaced_meanwhile_is_noticed(place: Place, tmp_path: Path) -> None:
    put(place, "moving", b"one")
    facts = place.facts("moving")
    put(place, "moving", b"two")
    with pytest.raises(Damaged, match="was replaced while it was being fetched"):
        transfer(place.client, servers.BUCKET, "moving", tmp_path / "file", **facts)


def test_a_large_object_says_how_far_it_is(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deploy.s3_transfer, "LARGE_BYTES", 1)
    monkeypatch.setattr(deploy.s3_transfer, "LOG_INTERVAL_S", 0.0)
    put(place, "told", b"x" * MB)
    transfer(place.client, servers.BUCKET, "told", tmp_path / "file", **place.facts("told"))
    assert f"s3://{servers.BUCKET}/told: 1 of 1 MB" in capsys.readouterr().err
