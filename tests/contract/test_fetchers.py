"""What every fetcher of data promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compress import catalogue
from compress.core.registry import UnknownName
from compress.data.source import FETCHERS, MissingData, fetch

catalogue.load()

NAMES = sorted(name for name in FETCHERS if FETCHERS[name].function.__module__.startswith(("compress.", "deploy.")))
CONTENT = b"pictures"

#: Gives the address of a folder that holds one file, "a/b.bin".
Place = Callable[[], str]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> dict[str, Place]:
    """By scheme, what puts the file there."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))

    def on_this_machine() -> str:
        folder = tmp_path / "data of mine"
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "b.bin").write_bytes(CONTENT)
        return folder.as_uri()

    def in_a_bucket() -> str:
        boto3 = pytest.importorskip("boto3")
        pytest.importorskip("moto")
        for name in ("AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("endpoint"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        bucket = boto3.resource("s3").create_bucket(Bucket="contract")
        bucket.put_object(Key="data/a/b.bin", Body=CONTENT)
        return "s3://contract/data"

    return {"file": on_this_machine, "s3": in_a_bucket}


def test_every_scheme_is_tried(places: dict[str, Place]) -> None:
    assert set(places) == set(NAMES)


@pytest.mark.parametrize("scheme", NAMES)
def test_files_and_folders_come_to_an_existing_local_path(scheme: str, places: dict[str, Place]) -> None:
    address = places[scheme]()
    assert address.startswith(f"{scheme}://")
    file, folder = fetch(f"{address}/a/b.bin"), fetch(address)
    assert file.is_file()
    assert folder.is_dir()
    assert file.read_bytes() == (folder / "a" / "b.bin").read_bytes() == CONTENT
    assert fetch(f"{address}/a/b.bin") == file


@pytest.mark.parametrize("scheme", NAMES)
def test_what_is_not_there_is_missing_data(scheme: str, places: dict[str, Place]) -> None:
    address = places[scheme]()
    with pytest.raises(MissingData, match=r"nothing_here\.bin"):
        fetch(f"{address}/nothing_here.bin")


def test_a_plain_path_needs_no_scheme(tmp_path: Path) -> None:
    assert fetch(str(tmp_path)) == tmp_path


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(UnknownName) as caught:
        fetch("gopher://somewhere/data")
    assert "gopher" in str(caught.value)
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize("scheme", NAMES)
def test_card_is_filled_in(scheme: str) -> None:
    for word in ("Args:", "Returns:"):
        assert word in FETCHERS[scheme].function.__doc__
