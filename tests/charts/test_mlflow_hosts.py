"""With the official chart as a dependency, the MLflow server answers to its own Service, and to nobody else."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.charts.rendering import Rendered, combinations, parsed, render, run
from tests.deploy.mlflow_server import NO_JOBS, free_port


def server_settings(rendered: Rendered, name: str) -> dict[str, str]:
    return dict(rendered.sole("ConfigMap", name)["data"])


def hosts(rendered: Rendered, name: str = "secateur-mlflow-server") -> list[str]:
    return server_settings(rendered, name)["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_all_names_of_the_service_are_allowed_with_and_without_the_port() -> None:
    assert hosts(render(combinations()["mlflow"])) == [
        "night-mlflow",
        "night-mlflow:5000",
        "night-mlflow.ml",
        "night-mlflow.ml:5000",
        "night-mlflow.ml.svc",
        "night-mlflow.ml.svc:5000",
        "night-mlflow.ml.svc.cluster.local",
        "night-mlflow.ml.svc.cluster.local:5000",
        "localhost",
        "localhost:*",
        "127.0.0.1",
        "127.0.0.1:*",
    ]


def test_ingress_port_name_and_extra_hosts_are_followed() -> None:
    rendered = render(combinations()["mlflow-ingress"])
    found = hosts(rendered, "tracking-hosts")
    assert {"tracking:8080", "tracking.ml.svc.cluster.local:8080", "mlflow.example.com"} <= set(found)
    assert {"*.example.org", "gateway:8443", "10.*", "172.31.*"} <= set(found)
    origins = server_settings(rendered, "tracking-hosts")["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"]
    assert origins == "https://mlflow.example.com"
    assert "*" not in found


def test_the_address_for_clients_is_an_allowed_host_of_the_service_that_is_made() -> None:
    for name, settings in (("mlflow", "secateur-mlflow-server"), ("mlflow-ingress", "tracking-hosts")):
        rendered = render(combinations()[name])
        uri = rendered.sole("ConfigMap", "secateur")["data"]["MLFLOW_TRACKING_URI"]
        host = uri.removeprefix("http://")
        assert host in hosts(rendered, settings)
        service = next(one for one in rendered.others if one["kind"] == "Service")
        assert host.split(".")[0] == service["metadata"]["name"]
        assert int(host.rpartition(":")[2]) == service["spec"]["ports"][0]["port"]


def test_the_server_gets_the_computed_names() -> None:
    for name, settings in (("mlflow", "secateur-mlflow-server"), ("mlflow-ingress", "tracking-hosts")):
        rendered = render(combinations()[name])
        found: list[Any] = []
        for one in rendered.others:
            spec = one.get("spec", {}).get("template", one).get("spec", {})
            found += [source for item in spec.get("containers", ()) for source in item.get("envFrom", ())]
        assert {"configMapRef": {"name": settings}} in found


def test_the_official_chart_is_an_option() -> None:
    rendered = render(combinations()["default"])
    assert not rendered.of("ConfigMap", "mlflow-server")
    assert rendered.others == ()


def test_another_cluster_domain_is_followed() -> None:
    values = {**combinations()["mlflow"], "clusterDomain": "k8s.example"}
    assert "night-mlflow.ml.svc.k8s.example:5000" in hosts(render(values))


def test_an_address_of_ones_own_wins() -> None:
    values = {**combinations()["mlflow"], "tracking": {"uri": "https://mlflow.example.com"}}
    data = parsed(run("template", values).stdout).sole("ConfigMap", "secateur")["data"]
    assert data["MLFLOW_TRACKING_URI"] == "https://mlflow.example.com"


def status(port: int, path: str, host: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, list[str]]]:
    """Start a real MLflow server with the computed names; yield its port and the names."""
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    rendered = render(combinations()["mlflow"])
    settings = server_settings(rendered, "secateur-mlflow-server")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **NO_JOBS, **settings},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait(process, port, folder / "server.log")
        yield port, hosts(rendered)
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(900):
        try:
            if status(port, "/health", "localhost") == 200:
                return
        except OSError:
            assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(log.read_text())


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


@pytest.mark.slow
def test_a_real_server_answers_to_these_names_alone(server: tuple[int, list[str]]) -> None:
    port, allowed = server
    asked = [name.replace("*", "9") for name in allowed]
    assert {name: status(port, SEARCH, name) for name in asked} == dict.fromkeys(asked, 200)
    strangers = [
        "mlflow.evil.example",
        "night-mlflow.other.svc.cluster.local:5000",
        "night-mlflow:8080",
        "10.0.0.7:5000",
    ]
    assert not any(fnmatch.fnmatch(name, pattern) for name in strangers for pattern in allowed)
    assert {name: status(port, SEARCH, name) for name in strangers} == dict.fromkeys(strangers, 403)
    assert status(port, "/health", "mlflow.evil.example") == 200
    print(f"{len(asked)} names answered, {len(strangers)} refused")


@pytest.mark.slow
def test_helm_test_tells_a_refused_name_from_an_allowed_one(server: tuple[int, list[str]]) -> None:
    from tests.charts.test_connections import check

    port, _ = server
    url = f"http://127.0.0.1:{port}{SEARCH}"
    assert check.failure(url, {}) == ""
    refused = check.failure(url, {"Host": "night-mlflow:8080"})
    assert "HTTP 403, start MLflow with MLFLOW_SERVER_ALLOWED_HOSTS" in refused
