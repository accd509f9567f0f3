"""Renders the chart with a real Helm, beside a stand-in for the official MLflow chart, which needs a network."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "secateur"
RELEASE, NAMESPACE = "night", "ml"
URI = {"tracking": {"uri": "http://mlflow.mlflow.svc.cluster.local:5000"}}

#: Names as the official chart makes them, and what of it our values rely on: the Service and envFrom.
STAND_IN = {
    "Chart.yaml": "apiVersion: v2\nname: mlflow\nversion: 0.1.1\n",
    "values.yaml": "fullnameOverride: ''\nenvFrom: []\nserver: {value_options: {host: 0.0.0.0, port: 5000}}\n",
    "templates/server.yaml": """\
{{- $made := printf "%s-%s" .Release.Name .Chart.Name }}
{{- $name := .Values.fullnameOverride | default $made | trunc 63 | trimSuffix "-" }}
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
spec:
  selector: {app: mlflow}
  ports:
    - port: {{ .Values.server.value_options.port }}
---
apiVersion: v1
kind: Pod
metadata:
  name: {{ $name }}
spec:
  containers:
    - name: mlflow
      image: stand-in:0
      envFrom:
        {{- toYaml .Values.envFrom | nindent 8 }}
""",
}


@dataclass(frozen=True)
class Rendered:
    """What Helm made of values.

    Attributes:
        ours: Objects of this chart.
        others: Objects of the stand-in.
    """

    ours: tuple[dict[str, Any], ...]
    others: tuple[dict[str, Any], ...]

    def of(self, kind: str, name: str = "") -> list[dict[str, Any]]:
        """Return this chart's objects of a kind whose names end in `name`."""
        return [one for one in self.ours if one["kind"] == kind and one["metadata"]["name"].endswith(name)]

    def sole(self, kind: str, name: str = "") -> dict[str, Any]:
        """Return the only object of a kind whose name ends in `name`."""
        found = self.of(kind, name)
        assert len(found) == 1, f"{len(found)} of {kind} {name}"
        return found[0]


@functools.cache
def helm() -> str:
    """Return the Helm of this environment, or skip."""
    beside = Path(sys.executable).parent / "helm"
    found = str(beside) if beside.exists() else shutil.which("helm")
    if not found:
        pytest.skip("helm is missing: install helm-binary")
    return str(found)


@functools.cache
def chart() -> Path:
    """Return a copy of the chart with the stand-in, or with the chart that SECATEUR_MLFLOW_CHART names."""
    folder = Path(tempfile.mkdtemp(prefix="chart-")) / "secateur"
    shutil.copytree(CHART, folder, ignore=shutil.ignore_patterns("charts"))
    dependency = folder / "charts" / "mlflow"
    if real := os.environ.get("SECATEUR_MLFLOW_CHART"):
        shutil.copytree(real, dependency)
        return folder
    for name, text in STAND_IN.items():
        (dependency / name).parent.mkdir(parents=True, exist_ok=True)
        (dependency / name).write_text(text)
    return folder


def run(command: str, values: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    """Run `helm template` or `helm lint` with values."""
    where = [RELEASE, str(chart())] if command == "template" else [str(chart())]
    arguments = [helm(), command, *where, "--namespace", NAMESPACE, "--values", "-", *more]
    text = yaml.safe_dump(values)
    return subprocess.run(arguments, input=text, capture_output=True, text=True, check=False, timeout=120)


def render(values: dict[str, Any], *more: str) -> Rendered:
    """Return the objects that values make."""
    done = run("template", values, *more)
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout)


def parsed(text: str) -> Rendered:
    """Return the objects of a stream in which Helm names each one's template."""
    ours: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for part in text.split("\n---\n"):
        loaded = yaml.safe_load(part)
        if loaded:
            (others if "# Source: secateur/charts/" in part else ours).append(loaded)
    return Rendered(tuple(ours), tuple(others))


def refusal(values: dict[str, Any], *more: str) -> str:
    """Return what Helm says about values that it must not accept."""
    done = run("template", values, *more)
    assert done.returncode != 0, "these values must be refused"
    return done.stderr


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    """Return nested dictionaries laid over each other."""
    out: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(out.get(key), dict)
            out[key] = merged(out[key], value) if both else value
    return out


def combinations() -> dict[str, dict[str, Any]]:
    """Return the committed combinations of values by their names."""
    return {
        path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text())
        for path in sorted((CHART / "ci").glob("*-values.yaml"))
    }


def pod_specs(one: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return metadata and specification of the pods that an object makes."""
    if one["kind"] == "Pod":
        return [(one["metadata"], one["spec"])]
    if one["kind"] == "Job":
        template = one["spec"]["template"]
        return [(template["metadata"], template["spec"])]
    if one["kind"] == "CronJob":
        template = one["spec"]["jobTemplate"]["spec"]["template"]
        return [(template["metadata"], template["spec"])]
    return []


def containers(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the containers that an object brings, those of KServe's objects too."""
    if one["kind"] == "ServingRuntime":
        return list(one["spec"]["containers"])
    if one["kind"] == "ClusterStorageContainer":
        return [one["spec"]["container"]]
    return [item for _, spec in pod_specs(one) for item in (*spec.get("initContainers", ()), *spec["containers"])]
