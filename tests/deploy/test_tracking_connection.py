"""Reaching MLflow: how long is tried, what is said, and that the process is left as it was."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from compress.store import LocalStore
from deploy.mlflow_store import MlflowStore
from deploy.step import open_store
from deploy.tracking import Unreachable, close_parent, default_uri, open_parent, ui_command
from deploy.tracking.__main__ import main
from deploy.tracking.connection import Patience, artifact_location, connected, database_file, environment, retrying
from deploy.tracking.registry import split_name

QUICK = Patience(total_s=60.0, attempts=3, timeout_s=1.0, first_delay_s=0.05)
NOBODY = "http://127.0.0.1:9"


class Refusing(BaseHTTPRequestHandler):
    """Answers everything as MLflow does when the host name is not allowed."""

    asked = 0

    def do_POST(self) -> None:
        """Refuse."""
        type(self).asked += 1
        text = b"Invalid Host header - possible DNS rebinding attack detected"
        self.send_response(403)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing_uri() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def used_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store that a client made once: the tables of a new one take a second."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    with connected(uri):
        return uri


def test_sqlite_in_the_workspace_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = default_uri(tmp_path)
    assert database_file(uri) == tmp_path / "mlflow.db"
    assert artifact_location(uri) == (tmp_path / "mlartifacts").as_uri()
    assert str(tmp_path / "mlflow.db") in ui_command(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert default_uri(tmp_path) == "http://elsewhere"
    assert artifact_location("http://elsewhere") is None
    assert ui_command("http://elsewhere") == "open http://elsewhere"


def test_patience_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_MLFLOW_TOTAL_S", "3")
    monkeypatch.setenv("SECATEUR_MLFLOW_ATTEMPTS", "0")
    assert Patience.from_environment() == Patience(total_s=3.0, attempts=1)
    monkeypatch.setenv("SECATEUR_MLFLOW_TIMEOUT_S", "soon")
    with pytest.raises(ValueError, match="SECATEUR_MLFLOW_TIMEOUT_S"):
        Patience.from_environment()


def test_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_A", "1")
    monkeypatch.delenv("SECATEUR_B", raising=False)
    with environment({"SECATEUR_A": "2", "SECATEUR_B": "3"}):
        assert os.environ["SECATEUR_A"] == "2"
    assert os.environ["SECATEUR_A"] == "1"
    assert "SECATEUR_B" not in os.environ


def test_an_unreachable_server_is_tried_a_few_times_and_named() -> None:
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9 cannot be used \(tried 3 times"):
        retrying(NOBODY, lambda client: None, QUICK)


@pytest.mark.parametrize("uri", ["https://ann:hunter2@mlflow.example.com", "postgresql://ann:hunter2@db/mlflow"])
def test_an_address_with_a_password_is_refused_before_anything_is_written(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a password: put user and password into") as caught:
        MlflowStore(LocalStore(tmp_path), uri)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ValueError, match="holds a password"):
        retrying(uri, lambda client: None, QUICK)
    with pytest.raises(ValueError, match="holds a password"):
        open_store(str(tmp_path / "workspace"), tracking_uri=uri)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_what_passes_is_tried_again_and_what_cannot_help_is_not(used_uri: str) -> None:
    from mlflow.exceptions import MlflowException

    failures = iter([OSError("reset"), MlflowException("busy")])

    def work(client: object) -> str:
        for failure in failures:
            raise failure
        return "done"

    assert retrying(used_uri, work, QUICK) == "done"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.ENOENT, errno.EISDIR])
def test_what_the_disk_here_is_to_blame_for_is_raised_at_once(number: int, used_uri: str) -> None:
    tries = []

    def work(client: object) -> None:
        tries.append(client)
        raise OSError(number, "the disk")

    with pytest.raises(OSError, match="the disk") as caught:
        retrying(used_uri, work, QUICK)
    assert not isinstance(caught.value, Unreachable)
    assert len(tries) == 1


def test_a_refused_host_is_explained_at_once(refusing_uri: str) -> None:
    Refusing.asked = 0
    with pytest.raises(Unreachable, match="--allowed-hosts"):
        retrying(refusing_uri, lambda client: None, QUICK)
    assert Refusing.asked == 1


@pytest.mark.parametrize("is_set", [False, True])
def test_mlflows_own_settings_are_left_as_they_were(
    is_set: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    if is_set:
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mine.db")
    before, environ = (mlflow.get_tracking_uri(), mlflow.get_registry_uri()), dict(os.environ)
    with connected(f"sqlite:///{tmp_path}/mlflow.db"):
        assert mlflow.get_tracking_uri() != before[0]
        assert mlflow.get_registry_uri() != before[1]
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == before
    assert dict(os.environ) == environ


def test_a_parent_run_is_remembered_until_mlflow_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_MLFLOW_ATTEMPTS", "1")
    key = open_parent(NOBODY, "toy", "run", {"a": "b"}, pending=tmp_path)
    assert not close_parent(NOBODY, key, verdict="fail", metrics={"a": 1.0}, pending=tmp_path)
    kept = json.loads((tmp_path / f"{key}.json").read_text())
    assert kept["open"]["name"] == "run"
    assert kept["close"]["verdict"] == "fail"
    assert close_parent(NOBODY, "", verdict="pass") is False


def test_split_name_wants_an_alias() -> None:
    assert split_name("models:/a@b") == ("a", "b")
    with pytest.raises(ValueError, match="names no alias"):
        split_name("models:/a")


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(tmp_path), "--uri", NOBODY]) == 0
    assert main(["push", str(tmp_path / "nowhere"), "--uri", NOBODY]) == 1
    assert "nothing was pending" in capsys.readouterr().out
    assert main(["pull", "models:/a@b", "--to", str(tmp_path), "--uri", NOBODY]) == 1
    assert "exists already" in capsys.readouterr().err
