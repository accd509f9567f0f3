"""The chart is linted and rendered with many values; Kubernetes' own schemas check what comes out."""

from __future__ import annotations

import functools
import importlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import URI, chart, combinations, helm, merged, parsed, pod_specs, render, run

VERSIONS = ("1.31", "1.34", "1.37")
CUSTOM = "serving.kserve.io/v1alpha1"
SCHEDULED = merged(URI, {"schedule": {"state": "present", "parameters": {"preset": "digits"}}})


def test_lint_is_strict_without_any_values() -> None:
    done = run("lint", {}, "--strict")
    assert done.returncode == 0, done.stdout + done.stderr


def test_data_lies_where_tasks_have_a_volume() -> None:
    """Without a claim in the workspace; with one, the uploaded pipelines mount it, and their version says so."""
    claims = {"default": "", "claims": "night-secateur-data"}
    for name, claim in claims.items():
        rendered = render(combinations()[name])
        assert rendered.sole("ConfigMap", "secateur")["data"]["SECATEUR_CACHE"] == "/workspace/cache"
        command = pod_specs(rendered.sole("Job", "upload-compress"))[0][1]["containers"][0]["command"]
        assert command[command.index("--version") + 1] == "0.1.0" + (f"-data-claim-{claim}" if claim else "")
        assert command[-2:] == (["--data-claim", claim] if claim else command[-2:])
        assert ("--data-claim" in command) is bool(claim)


@pytest.mark.parametrize(("user", "expected"), [(1000, []), (2000, ["--user", "2000"]), (None, ["--user", "0"])])
def test_tasks_run_as_the_user_of_the_values(user: int | None, expected: list[str]) -> None:
    rendered = render(merged(URI, {"pod": {"runAsUser": user}}))
    command = pod_specs(rendered.sole("Job", "upload-nightly"))[0][1]["containers"][0]["command"]
    assert command[command.index("--version") + 2 :] == expected


def test_tasks_are_told_the_image_by_its_digest() -> None:
    told = {
        name: render(combinations()[name]).sole("ConfigMap", "secateur")["data"].get("SECATEUR_IMAGE_DIGEST")
        for name in ("default", "placement")
    }
    assert told == {"default": None, "placement": "ghcr.io/secateur/secateur-python@sha256:" + "b" * 64}


@pytest.mark.parametrize("name", ["default", "multi-user", "serving"])
def test_a_policy_finds_the_tasks_of_the_pipelines(name: str) -> None:
    """Its selector is the label that the compiled pipelines give; its rules hold what Kubeflow itself needs."""
    placement = pytest.importorskip("pipelines.placement", reason="kfp is not installed")
    found = render(combinations()[name]).sole("NetworkPolicy", "-tasks")
    assert found["metadata"]["namespace"] == ("team-vision" if name == "multi-user" else "ml")
    assert found["spec"]["podSelector"]["matchLabels"] == dict([placement.LABEL])
    assert found["spec"]["ingress"] == []
    ports = {port["port"] for rule in found["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 5000, 8080, 8333, 8887, 8888, 9000, 443, 6443}
    narrow = {"networkPolicy": {"tasks": {"kubernetesApi": [{"cidr": "10.0.0.1/32"}], "kubernetesPorts": [6443]}}}
    rules = render(merged(URI, narrow)).sole("NetworkPolicy", "-tasks")["spec"]["egress"]
    assert rules[-1] == {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [{"protocol": "TCP", "port": 6443}]}


def test_the_policy_for_tasks_can_be_left_out() -> None:
    assert not render(merged(URI, {"networkPolicy": {"tasks": {"enabled": False}}})).of("NetworkPolicy", "-tasks")
    assert not render(merged(URI, {"networkPolicy": {"enabled": False}})).of("NetworkPolicy")


def test_there_are_enough_combinations() -> None:
    assert len(combinations()) >= 12


@pytest.mark.parametrize("name", combinations())
def test_lint_is_strict_and_silent(name: str) -> None:
    done = run("lint", combinations()[name], "--strict")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout
    assert "0 chart(s) failed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", combinations())
def test_rendered_objects_fit_the_schemas_of_kubernetes(name: str, version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    rendered = render(combinations()[name], "--kube-version", version)
    checked = [one for one in rendered.ours if one["apiVersion"] != CUSTOM]
    assert len(checked) >= 3
    for one in checked:
        assert validator.validate(one, version, strict=True) == version


@pytest.mark.parametrize("version", VERSIONS)
def test_the_strict_schemas_notice_a_wrong_field(version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    job = render(SCHEDULED).sole("Job", "schedule-apply")
    job["spec"]["template"]["spec"]["serviceAccountNames"] = "typo"
    with pytest.raises(validator.ValidationError):
        validator.validate(job, version, strict=True)


def test_an_older_kubernetes_is_refused() -> None:
    done = run("template", URI, "--kube-version", "1.28")
    assert done.returncode != 0
    assert "kubeVersion: >=1.29.0-0" in done.stderr


def test_rendering_is_repeatable() -> None:
    values = combinations()["everything"]
    assert run("template", values).stdout == run("template", values).stdout


def test_nothing_of_kubeflow_or_mlflow_is_installed_unasked() -> None:
    rendered = render(combinations()["default"])
    assert rendered.others == ()
    kinds = {one["kind"] for one in rendered.ours}
    assert kinds.isdisjoint({"Deployment", "StatefulSet", "DaemonSet", "CustomResourceDefinition", "Namespace"})


def test_hooks_call_the_command_line() -> None:
    rendered = render(combinations()["schedule-present"])
    upload, apply = rendered.sole("Job", "upload-nightly"), rendered.sole("Job", "schedule-apply")
    remove = rendered.sole("Job", "schedule-remove")
    commands = [pod_specs(one)[0][1]["containers"][0]["command"] for one in (upload, apply, remove)]
    assert commands[0] == ["secateur", "pipeline", "upload", "--pipeline", "nightly", "--version", "0.1.0"]
    assert commands[1] == ["secateur", "schedule", "apply", "-f", "/etc/secateur/schedule.yaml"]
    assert commands[2] == ["secateur", "schedule", "delete", "-f", "/etc/secateur/schedule.yaml"]
    when = [one["metadata"]["annotations"]["helm.sh/hook"] for one in (upload, apply, remove)]
    assert when == ["post-install,post-upgrade", "post-install,post-upgrade", "pre-delete"]
    weights = [int(one["metadata"]["annotations"]["helm.sh/hook-weight"]) for one in (upload, apply)]
    assert weights[0] < weights[1]


@pytest.mark.parametrize(
    ("state", "jobs"),
    [
        ("present", {"schedule-apply", "schedule-remove"}),
        ("paused", {"schedule-apply", "schedule-remove"}),
        ("absent", {"schedule-delete"}),
        ("unmanaged", set()),
    ],
)
def test_states_of_the_schedule(state: str, jobs: set[str]) -> None:
    rendered = render(
        merged(SCHEDULED, {"schedule": {"state": state, "version": "latest"}, "pipeline": {"upload": []}})
    )
    assert {one["metadata"]["name"].removeprefix("night-secateur-") for one in rendered.of("Job")} == jobs


def test_hooks_have_no_credentials_of_s3() -> None:
    rendered = render(combinations()["everything"])
    for one in (*rendered.of("Job"), *rendered.of("CronJob"), *rendered.of("Pod")):
        names = {item["name"] for item in pod_specs(one)[0][1]["containers"][0]["env"]}
        assert not any(name.startswith("AWS_") for name in names)
    test = pod_specs(rendered.sole("Pod"))[0][1]["containers"][0]["env"]
    secrets = {item["name"]: item["valueFrom"]["secretKeyRef"] for item in test if "valueFrom" in item}
    assert secrets["MLFLOW_TRACKING_TOKEN"] == {"name": "secateur", "key": "MLFLOW_TRACKING_TOKEN", "optional": True}


def test_several_users_get_a_token_for_kubeflow_alone() -> None:
    for name, num_tokens in (("multi-user", 1), ("default", 0)):
        spec = pod_specs(render(combinations()[name]).sole("Job", "upload-nightly"))[0][1]
        tokens = [volume["projected"] for volume in spec["volumes"] if "projected" in volume]
        assert len(tokens) == num_tokens
        for token in tokens:
            assert token["sources"][0]["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
    binding = render(combinations()["multi-user"]).sole("RoleBinding")
    assert binding["metadata"]["namespace"] == "team-vision"
    assert binding["subjects"][0]["namespace"] == "ml"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("default", [("kubeflow", 8888), ("mlflow", 5000)]),
        ("multi-user", [("kubeflow", 3000), ("mlflow", 5000)]),
        ("serving", [("kubeflow", 8888), ("mlflow", 5000), ("kubeflow", 9000)]),
        ("mlflow", [("kubeflow", 8888), ("ml", 5000)]),
        ("mlflow-ingress", [("kubeflow", 8888), ("ml", 8080)]),
        ("bare", [("ml", 8888), ("ml", 80), ("outside", 9000)]),
        ("outside", [("outside", 443), ("outside", 8443), ("outside", 443)]),
    ],
)
def test_egress_follows_the_addresses(name: str, expected: list[tuple[str, int]]) -> None:
    bare = {
        "kubeflow": {"endpoint": "http://ml-pipeline:8888"},
        "tracking": {"uri": "http://mlflow"},
        "storage": {"endpoint": "https://s3.svc.example.com:9000"},
        "networkPolicy": {"outside": [{"cidr": "10.0.0.0/8"}, {"cidr": "172.16.0.0/12"}]},
    }
    rules = render(combinations().get(name, bare)).sole("NetworkPolicy", "night-secateur")["spec"]["egress"]
    assert {port["port"] for port in rules[0]["ports"]} == {53}
    found = []
    for rule in rules[1 : 1 + len(expected)]:
        peer = rule["to"][0]
        labels = peer.get("namespaceSelector", {}).get("matchLabels", {})
        assert labels or len(rule["to"]) == 2
        found.append((labels.get("kubernetes.io/metadata.name", "outside"), rule["ports"][0]["port"]))
    assert sorted(found) == sorted(expected)


def test_compiled_pipelines_find_their_names() -> None:
    """What `pipelines/placement.py` reads, and where it looks for it when nobody says otherwise."""
    placement = pytest.importorskip("pipelines.placement", reason="kfp is not installed")
    rendered = render(combinations()["everything"])
    config = rendered.sole("ConfigMap", "night-secateur-schedule")["data"]["schedule.yaml"]
    parameters = yaml.safe_load(config)["parameters"]
    assert (parameters["config_map"], parameters["secret"]) == ("secateur", "secateur")
    data = next(one for one in rendered.of("ConfigMap") if one["metadata"]["name"] == parameters["config_map"])["data"]
    assert set(data) <= set(placement.CONFIG_KEYS)
    assert rendered.of("PersistentVolumeClaim", placement.CLUSTER.workspace_claim)
    container = rendered.sole("ClusterStorageContainer")["spec"]["container"]
    secrets = {one["name"]: one["valueFrom"]["secretKeyRef"]["name"] for one in container["env"] if "valueFrom" in one}
    for_tasks_alone = {"SECATEUR_SEARCH_STORAGE"}
    assert secrets == dict.fromkeys(set(placement.SECRET_KEYS) - for_tasks_alone, parameters["secret"])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "26.09-py3"),
        ({"tag": "26.10-py3"}, "26.10-py3"),
        ({"tag": "26.10-py3", "digest": "sha256:" + "1" * 64}, "26.10-py3@sha256:" + "1" * 64),
        ({"repository": "registry.example:5000/triton", "tag": "26.10"}, "26.10"),
    ],
)
def test_engines_learn_which_triton_will_load_them(image: dict[str, str], expected: str) -> None:
    """The variable that an engine's manifest records, under the name that the exporter reads."""
    from deploy.export.engine_manifest import TRITON_TAG

    triton = {"enabled": True, "tensorrtVersion": "10.16.1", "image": image}
    serving = merged(URI, {"serving": {"triton": triton}})
    assert render(serving).sole("ConfigMap", "secateur")["data"][TRITON_TAG] == expected
    assert TRITON_TAG not in render(merged(URI)).sole("ConfigMap", "secateur")["data"]


def schedule_file(values: dict[str, Any]) -> dict[str, Any]:
    return yaml.safe_load(render(values).sole("ConfigMap", "schedule")["data"]["schedule.yaml"])


def test_the_schedule_is_pinned_to_what_is_uploaded() -> None:
    rendered = render(combinations()["placement"])
    version = pod_specs(rendered.sole("Job", "upload-nightly"))[0][1]["containers"][0]["command"][-1]
    written = yaml.safe_load(rendered.sole("ConfigMap", "schedule")["data"]["schedule.yaml"])
    assert written["version"] == version == "v1.2.3-bbbbbbbbbbbb"
    image = "ghcr.io/secateur/secateur-python:v1.2.3@sha256:" + "b" * 64
    assert written["parameters"] == {"preset": "digits", "image": image, "config_map": "secateur", "secret": "secateur"}


def test_the_schedules_file_says_what_the_values_say() -> None:
    written = schedule_file(combinations()["schedule-present"])
    assert written == {
        "name": "secateur-nightly",
        "pipeline": "nightly",
        "version": "v12",
        "cron": "0 30 1 * * MON-FRI",
        "experiment": "secateur",
        "enabled": True,
        "service_account": "default-editor",
        "mlflow_plugin": {"disabled": True},
        "parameters": {
            "preset": "digits",
            "gpu_limit": 1,
            "node_selector": {"pool": "gpu"},
            "image": "ghcr.io/secateur/secateur-python:0.1.0",
            "config_map": "secateur",
            "secret": "secateur",
        },
    }
    paused = schedule_file(combinations()["schedule-paused"])
    assert (paused["enabled"], paused["version"], paused["parameters"]) == (False, "latest", {"x": 1})


def test_own_parameters_win() -> None:
    written = schedule_file(merged(SCHEDULED, {"schedule": {"parameters": {"image": "mine:1", "secret": "s"}}}))
    assert written["parameters"]["image"] == "mine:1"
    assert written["parameters"]["secret"] == "s"
    assert written["parameters"]["config_map"] == "secateur"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, values in combinations().items() if "schedule" in values])
def test_the_command_line_reads_the_schedules_file(name: str, tmp_path: Path) -> None:
    command = pytest.importorskip(
        "pipelines.schedule_command", reason="`secateur schedule` is not part of this tree yet"
    )
    file = tmp_path / "schedule.yaml"
    file.write_text(render(combinations()[name]).sole("ConfigMap", "schedule")["data"]["schedule.yaml"])
    assert command.load(file).name == "secateur-nightly"


def test_the_command_line_has_the_options_of_the_hooks() -> None:
    command = pytest.importorskip("pipelines.command", reason="`secateur pipeline` is not part of this tree yet")
    from typer.testing import CliRunner

    found = CliRunner().invoke(command.app, ["upload", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert found.exit_code == 0
    for option in ("--pipeline", "--version", "KF_PIPELINES_ENDPOINT", "SECATEUR_NAMESPACE"):
        assert option in found.output


def test_kept_claims_stay() -> None:
    claims = render(combinations()["claims"]).of("PersistentVolumeClaim")
    kept = {one["metadata"]["name"]: one["metadata"].get("annotations", {}) for one in claims}
    assert set(kept) == {"secateur-workspace", "night-secateur-data"}
    assert all(notes["helm.sh/resource-policy"] == "keep" for notes in kept.values())


def test_the_sweep_gets_its_options() -> None:
    spec = pod_specs(render(combinations()["engines"]).sole("CronJob"))[0][1]
    command = spec["containers"][0]["command"]
    assert command[:4] == ["python", "-m", "deploy.engine_sweep", "/cache/engines"]
    assert command[4:] == ["--older-than", "4w", "--keep", "3", "--dry-run"]
    assert callable(importlib.import_module(command[2]).main)


def test_names_stay_within_their_limits() -> None:
    long = run("template", {**SCHEDULED, "fullnameOverride": "a" * 63})
    names = [one["metadata"]["name"] for one in parsed(long.stdout).ours]
    assert max(len(name) for name in names) <= 63
    assert len(names) >= 8


@functools.cache
def chart_with_notes() -> Path:
    """Return a copy of the chart that shows its NOTES in a ConfigMap: `helm install` prints them only to a cluster."""
    folder = Path(tempfile.mkdtemp(prefix="notes-")) / "secateur"
    shutil.copytree(chart(), folder)
    text = (folder / "templates" / "NOTES.txt").read_text()
    shown = 'kind: ConfigMap\nmetadata: {name: notes}\ndata:\n  text: {{ include "shown" . | quote }}\n'
    (folder / "templates" / "notes.yaml").write_text(
        '{{ define "shown" }}' + text + "{{ end }}apiVersion: v1\n" + shown
    )
    return folder


def notes(values: dict[str, Any]) -> str:
    """Return what `helm install` would tell the user."""
    where = [helm(), "template", "night", str(chart_with_notes()), "--namespace", "ml", "--values", "-"]
    done = subprocess.run(where, input=yaml.safe_dump(values), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(next(one for one in parsed(done.stdout).ours if one["metadata"]["name"] == "notes")["data"]["text"])


def test_notes_say_what_is_configured_and_what_is_missing() -> None:
    text = notes(combinations()["multi-user"])
    assert "http://ml-pipeline-ui.kubeflow.svc.cluster.local (profile team-vision)" in text
    assert "MLflow              http://mlflow.mlflow.svc.cluster.local:5000" in text
    assert "The image has no digest" in text
    assert "Runs mount the claim secateur-workspace" in text
    assert "helm test night --namespace ml" in text
    everything = notes(combinations()["everything"])
    assert "The schedule secateur-nightly is present (0 0 2 * * *, seconds first)" in everything
    assert "storageUri: models:/digits@champion" in everything
    assert "Runs mount" not in everything
    assert "has no digest" not in notes(combinations()["placement"])


def test_claims_in_another_namespace_than_the_runs_are_pointed_out() -> None:
    values = merged(combinations()["multi-user"], {"persistence": {"workspace": {"enabled": True}}})
    assert "install the chart into team-vision" in notes(values)
    assert "install the chart into" not in notes(combinations()["everything"])


def test_the_chart_can_be_packaged(tmp_path: Path) -> None:
    done = subprocess.run([helm(), "package", str(chart()), "-d", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "secateur-0.1.0.tgz") as archive:
        names = {name.removeprefix("secateur/") for name in archive.getnames()}
    assert {"Chart.yaml", "values.schema.json", "files/check_connections.py", "README.md"} <= names
    assert not any(name.startswith("ci/") for name in names)


def test_versions_of_chart_package_and_image_agree() -> None:
    from importlib.metadata import version

    written = yaml.safe_load((chart() / "Chart.yaml").read_text())
    assert written["appVersion"] == version("secateur")
