"""The script that `helm test` runs, against servers that answer well and badly."""

from __future__ import annotations

import base64
import importlib.util
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from tests.charts.rendering import CHART, combinations, render


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_connections", CHART / "files" / "check_connections.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load()
ANSWERS = {
    "/api/2.0/mlflow/experiments/search": (200, b'{"experiments": []}'),
    "/apis/v2beta1/healthz": (200, b'{"multi_user": false}'),
    "/strict/api/2.0/mlflow/experiments/search": (403, b"Invalid Host header - possible DNS rebinding attack detected"),
    "/locked/apis/v2beta1/healthz": (401, b"who are you"),
    "/broken/apis/v2beta1/healthz": (500, b"oh"),
    "/login/apis/v2beta1/healthz": (200, b"<html>log in</html>"),
}


class Handler(BaseHTTPRequestHandler):
    seen: list[tuple[str, str]] = []  # noqa: RUF012 - shared on purpose

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        type(self).seen.append((path, self.headers.get("Authorization", "")))
        code, text = ANSWERS.get(path, (404, b""))
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def base() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    Handler.seen.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_two_servers_that_answer(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main({"MLFLOW_TRACKING_URI": f"{base}/", "KF_PIPELINES_ENDPOINT": base}) == 0
    assert capsys.readouterr().out.count("answers") == 2
    assert [path for path, _ in Handler.seen] == ["/api/2.0/mlflow/experiments/search", "/apis/v2beta1/healthz"]


@pytest.mark.parametrize(
    ("kubeflow", "says"),
    [
        ("/locked", "HTTP 401, check the credentials in the Secret and the service account's rights: who are you"),
        ("/broken", "HTTP 500, look into the server's log: oh"),
        ("/login", "answers, but not with JSON"),
    ],
)
def test_what_is_wrong_is_said(base: str, kubeflow: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main({"MLFLOW_TRACKING_URI": base, "KF_PIPELINES_ENDPOINT": f"{base}{kubeflow}"}) == 1
    assert says in capsys.readouterr().out


def test_a_refused_host_name_is_explained(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main({"MLFLOW_TRACKING_URI": f"{base}/strict", "KF_PIPELINES_ENDPOINT": base}) == 1
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" in capsys.readouterr().out


def test_both_may_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    nobody = "http://127.0.0.1:9"
    assert check.main({"MLFLOW_TRACKING_URI": nobody, "KF_PIPELINES_ENDPOINT": nobody}) == 2
    assert capsys.readouterr().out.count("no answer") == 2


def test_credentials_are_sent_and_not_printed(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "token"
    token.write_text("projected\n")
    environment = {"MLFLOW_TRACKING_URI": base, "KF_PIPELINES_ENDPOINT": base, "KF_PIPELINES_SA_TOKEN_PATH": str(token)}
    user = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "word"}
    assert check.main({**environment, **user}) == 0
    assert check.main({**environment, **user, "MLFLOW_TRACKING_TOKEN": "bearer"}) == 0
    sent = [header for _, header in Handler.seen]
    basic = f"Basic {base64.b64encode(b'me:word').decode()}"
    assert sent == [basic, "Bearer projected", "Bearer bearer", "Bearer projected"]
    printed = capsys.readouterr().out
    assert not any(secret in printed for secret in ("word", "bearer", "projected"))


def test_the_pod_runs_this_very_script() -> None:
    rendered = render(combinations()["default"])
    text = rendered.sole("ConfigMap", "connection-test")["data"]["check_connections.py"]
    assert text.strip() == (CHART / "files" / "check_connections.py").read_text().strip()
    command = rendered.sole("Pod")["spec"]["containers"][0]["command"]
    assert command == ["python", "/opt/secateur/check_connections.py"]
    assert rendered.sole("Pod")["metadata"]["annotations"]["helm.sh/hook"] == "test"
