"""What the hooks' Jobs give to the command line is what it needs to log in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.charts.rendering import combinations, pod_specs, render


class Api(BaseHTTPRequestHandler):
    sent: list[tuple[str, str]] = []  # noqa: RUF012 - shared on purpose

    def do_GET(self) -> None:
        type(self).sent.append((self.path, self.headers.get("Authorization", "")))
        text = b'{"multi_user": true}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    Api.sent.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def environment(name: str) -> dict[str, str]:
    """Return the plain variables of the upload's Job."""
    container = pod_specs(render(combinations()[name]).sole("Job", "upload-nightly"))[0][1]["containers"][0]
    return {item["name"]: item["value"] for item in container["env"]}


def test_variables_of_the_hooks() -> None:
    single, several = environment("default"), environment("multi-user")
    assert single["KF_PIPELINES_ENDPOINT"] == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
    assert {"SECATEUR_NAMESPACE", "KF_PIPELINES_SA_TOKEN_PATH"}.isdisjoint(single)
    assert several["SECATEUR_NAMESPACE"] == "team-vision"
    assert several["KF_PIPELINES_SA_TOKEN_PATH"] == "/var/run/secrets/kubeflow/pipelines/token"


def test_the_mounted_token_is_sent_to_an_address_that_is_given(
    api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kfp.Client` ignores the mounted token as soon as it is told an address, unless it gets it as credentials."""
    kubeflow = pytest.importorskip("deploy.kubeflow", reason="the client of Kubeflow is not part of this tree yet")
    (tmp_path / "token").write_text("projected")
    for name, value in environment("multi-user").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", api)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    kubeflow.connect(namespace="team-vision").get_kfp_healthz()
    assert Api.sent
    assert {header for _, header in Api.sent} == {"Bearer projected"}
