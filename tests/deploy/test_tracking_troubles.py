"""Whose fault an error is, whether another attempt can help, and the way to repair that its message names."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException, RestException

from deploy.tracking.progress import telling
from deploy.tracking.troubles import Incomplete, explain, is_final, is_of_s3, is_trouble, local_error
from deploy.tracking.upload import check_sizes, check_stored


class Answered(OSError):
    """An error of the requests package that carries an answer."""

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text or f"{status} Error")
        self.response = SimpleNamespace(status_code=status)


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")


ARTIFACT = "url: /api/2.0/mlflow-artifacts/artifacts/1/a401b/recipe.json "
CASES: list[tuple[Exception, bool, str]] = [
    (OSError("Connection refused"), False, "start it, or set MLFLOW_TRACKING_URI"),
    (OSError(ARTIFACT + "NewConnectionError: Connection refused"), False, "start it, or set MLFLOW_TRACKING_URI"),
    (
        OSError(ARTIFACT + "too many 500 error responses"),
        False,
        "its artifact store does not: look at the server's log",
    ),
    (OSError("too many 503 error responses"), False, "its database does not: start the database"),
    (MlflowException("(psycopg2.OperationalError) gone"), False, "its database does not: start the database"),
    (MlflowException("Failed to download 1 chunk(s) for x"), False, "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD=false"),
    (Answered(401), True, "MLFLOW_TRACKING_USERNAME"),
    (Answered(403, "Invalid Host header"), True, "--allowed-hosts"),
    (RestException({"error_code": "PERMISSION_DENIED", "message": "no"}), True, "MLFLOW_TRACKING_USERNAME"),
    (Incomplete("x: 4 bytes were sent, the artifact store holds 2"), False, "its artifact store does not: look at"),
    (refused("AccessDenied"), True, "refused the keys: check AWS_ACCESS_KEY_ID"),
    (refused("SignatureDoesNotMatch"), True, "refused the keys: check AWS_ACCESS_KEY_ID"),
    (refused("SlowDown"), False, "its artifact store does not: check AWS_ENDPOINT_URL"),
    (NoCredentialsError(), True, "refused the keys: check AWS_ACCESS_KEY_ID"),
    (EndpointConnectionError(endpoint_url="http://s3"), False, "its artifact store does not: check AWS_ENDPOINT_URL"),
    (S3UploadFailedError("InvalidAccessKeyId when calling PutObject"), False, "refused the keys"),
]


@pytest.mark.parametrize(("error", "is_hopeless", "repair"), CASES, ids=lambda value: str(value)[:40])
def test_an_error_is_explained_by_what_repairs_it(error: Exception, is_hopeless: bool, repair: str) -> None:
    assert is_trouble(error)
    assert is_final(error) is is_hopeless
    text = explain("http://mlflow", error, 2, 3.4)
    assert text.startswith("MLflow at http://mlflow cannot be used (tried 2 times in 3 s): ")
    assert repair in text.partition("To repair: ")[2]


def test_a_mistake_in_the_program_is_no_trouble_of_mlflow() -> None:
    assert not is_trouble(KeyError("a"))
    assert not is_of_s3(OSError("a"))


def test_a_long_reason_keeps_its_beginning_and_its_end() -> None:
    text = explain("u", OSError("what was asked " + "x" * 900 + " what came of it"), 1, 0.0)
    assert "(tried once): what was asked xx" in text
    assert "xx what came of it. To repair" in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("##### File a\n[Errno 28] No space left on device", errno.ENOSPC),
        ("##### File a\n[Errno 13] Permission denied", errno.EACCES),
        ("##### File a\n[Errno 104] reset", None),
        ("##### File a\n500 Server Error: [Errno 28] No space left on device", None),
    ],
)
def test_a_failed_download_is_put_down_to_this_disk_or_not(tmp_path: Path, text: str, number: int | None) -> None:
    found = local_error(MlflowException(text), tmp_path)
    assert (found.errno if found else None) == number
    assert list(tmp_path.iterdir()) == []


class Holding:
    """An artifact store with some files in it."""

    def __init__(self, **files: int | None) -> None:
        self.files = files

    def __call__(self, path: str) -> list[Any]:
        return [FileInfo(f"{path}/{name}", False, size) for name, size in self.files.items()]


def test_sizes_in_the_store_are_compared(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/a"):
        (tmp_path / name).write_bytes(b"1234")
    check_sizes(Holding(a=4, other=9), tmp_path, "entry")
    check_sizes(Holding(a=None), tmp_path)
    with pytest.raises(Incomplete, match="entry/a: 4 bytes were sent, the artifact store holds 3"):
        check_sizes(Holding(a=3), tmp_path, "entry")
    with pytest.raises(Incomplete, match=r"^a was sent and is not in the artifact store"):
        check_sizes(Holding(b=4), tmp_path)


@pytest.mark.parametrize(
    ("is_growing", "said"), [(True, "upload x: 0.0 MB so far, 0 s"), (False, "upload x: 2.0 MB, ")]
)
def test_a_long_transfer_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_growing: bool, said: str
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(bytes(0 if is_growing else 2_000_000))
    with telling("upload x", tmp_path, is_growing=is_growing):
        pass
    assert capsys.readouterr().err == "", "a short one says nothing"
    monkeypatch.setattr("compress.core.progress.LOG_INTERVAL_S", 0.02)
    with telling("upload x", tmp_path, is_growing=is_growing):
        time.sleep(0.2)
    assert said in capsys.readouterr().err


def test_what_is_read_back_differently_was_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.core.model import CorruptModel

    monkeypatch.setattr("deploy.tracking.fetch.download", lambda uri, location, folder: folder)

    def check(folder: Path) -> None:
        raise CorruptModel("weights changed")

    with pytest.raises(Incomplete, match="the artifact store changed what was sent to models:/m-0: weights changed"):
        check_stored("http://mlflow", "models:/m-0", check)
    check_stored("http://mlflow", "models:/m-0", lambda folder: None)
