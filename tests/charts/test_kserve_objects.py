"""KServe's objects: fields as KServe 0.21 knows them, containers and volumes by Kubernetes' own schemas."""

from __future__ import annotations

import ast
import importlib
from typing import Any

import pytest

from tests.charts.rendering import URI, combinations, merged, render
from tests.deploy.test_kserve import KSERVE

VERSIONS = ("1.31", "1.34", "1.37")

#: v1alpha1 ServingRuntimeSpec with the pod's fields that are part of it.
RUNTIME = {
    "affinity", "annotations", "builtInAdapter", "containers", "disabled", "grpcDataEndpoint", "grpcEndpoint",
    "hostIPC", "httpDataEndpoint", "imagePullSecrets", "labels", "multiModel", "nodeSelector", "protocolVersions",
    "replicas", "resourceClaims", "schedulerName", "storageHelper", "supportedModelFormats", "tolerations", "volumes",
    "workerSpec",
}  # fmt: skip
FORMAT = {"name", "version", "autoSelect", "priority"}
#: v1alpha1 StorageContainerSpec.
STORAGE = {"container", "supportedUriFormats", "supportsMultiModelDownload", "workloadType"}
PROTOCOLS = {"v1", "v2", "grpc-v1", "grpc-v2"}
SERVING = {
    "serving": {"triton": {"enabled": True, "tensorrtVersion": "10.16.1"}, "storageContainer": {"enabled": True}}
}


def json_names(model: str) -> set[str]:
    """Return the fields of one of KServe's own Python models, read from its file; the package imports a lot."""
    found = next(KSERVE.glob(f"lib/python3*/site-packages/kserve/models/{model}.py"), None)
    if found is None:
        pytest.skip(f"no kserve, whose models the lists above are compared with: run `make {KSERVE.name}/.done`")
    for node in ast.walk(ast.parse(found.read_text())):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "attribute_map":
            return set(ast.literal_eval(node.value).values())
    raise AssertionError(f"{model} has no attribute_map")


def test_the_lists_are_those_of_kserve() -> None:
    assert json_names("v1alpha1_serving_runtime_spec") == RUNTIME
    assert json_names("v1alpha1_storage_container_spec") == STORAGE
    assert json_names("v1alpha1_supported_model_format") == FORMAT


def test_the_storage_containers_program_exists() -> None:
    command = render(combinations()["everything"]).sole("ClusterStorageContainer")["spec"]["container"]["command"]
    assert command == ["python", "-m", "deploy.storage_initializer"]
    assert callable(importlib.import_module(command[2]).main)


def runtime(**more: Any) -> dict[str, Any]:
    return render(merged(URI, SERVING, {"serving": {"triton": more}})).sole("ServingRuntime")


@pytest.mark.parametrize("name", ["serving", "serving-cpu", "openshift", "everything"])
def test_runtime_has_only_fields_that_kserve_knows(name: str) -> None:
    one = render(combinations()[name]).sole("ServingRuntime")
    assert (one["apiVersion"], set(one)) == ("serving.kserve.io/v1alpha1", {"apiVersion", "kind", "metadata", "spec"})
    assert set(one["spec"]) <= RUNTIME
    for item in one["spec"]["supportedModelFormats"]:
        assert set(item) <= FORMAT
        assert isinstance(item["version"], str)
        assert isinstance(item["autoSelect"], bool)
    assert set(one["spec"]["protocolVersions"]) <= PROTOCOLS


@pytest.mark.parametrize("name", ["serving", "everything"])
def test_storage_container_has_only_fields_that_kserve_knows(name: str) -> None:
    one = render(combinations()[name]).sole("ClusterStorageContainer")
    assert (one["apiVersion"], set(one)) == ("serving.kserve.io/v1alpha1", {"apiVersion", "kind", "metadata", "spec"})
    assert "namespace" not in one["metadata"]
    assert set(one["spec"]) <= STORAGE
    assert one["spec"]["supportedUriFormats"] == [{"prefix": "models:/"}]
    assert one["spec"]["workloadType"] == "initContainer"
    assert one["spec"]["supportsMultiModelDownload"] is False, "KServe reads it without asking whether it is there"
    assert one["spec"]["container"]["name"] == "storage-initializer"
    assert "args" not in one["spec"]["container"], "KServe writes the URI and the folder there"


@pytest.mark.parametrize("version", VERSIONS)
def test_their_containers_fit_the_schemas_of_kubernetes(version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    rendered = render(combinations()["serving"], "--kube-version", version)
    spec = rendered.sole("ServingRuntime")["spec"]
    shared = {key: spec[key] for key in ("containers", "volumes", "nodeSelector", "tolerations")}
    storage = {"containers": [rendered.sole("ClusterStorageContainer")["spec"]["container"]]}
    for pod in (shared, storage):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wrapped"}, "spec": pod}
        assert validator.validate(whole, version, strict=True) == version
        pod["containers"][0]["commands"] = []
        with pytest.raises(validator.ValidationError):
            validator.validate(whole, version, strict=True)


@pytest.mark.parametrize(("version", "major"), [("10.16", "10"), ("11.4.0", "11"), ("10.16.1.11", "10")])
def test_the_format_carries_tensorrts_major_version(version: str, major: str) -> None:
    formats = {one["name"]: one["version"] for one in runtime(tensorrtVersion=version)["spec"]["supportedModelFormats"]}
    assert formats == {"triton": "2", "onnx": "1", "tensorrt": major}


def test_triton_serves_what_kserve_mounts_on_the_ports_that_it_calls() -> None:
    container = runtime(extraArgs=["--log-verbose=1"])["spec"]["containers"][0]
    assert container["name"] == "kserve-container"
    assert container["args"][0] == "tritonserver"
    assert {"--model-repository=/mnt/models", "--http-port=8080", "--grpc-port=9000"} <= set(container["args"])
    assert container["args"][-1] == "--log-verbose=1"
    assert container["image"] == "nvcr.io/nvidia/tritonserver:26.09-py3"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_kserve_chooses_the_runtime_only_when_asked() -> None:
    assert {one["autoSelect"] for one in runtime()["spec"]["supportedModelFormats"]} == {False}
    assert {one["autoSelect"] for one in runtime(autoSelect=True)["spec"]["supportedModelFormats"]} == {True}


def test_the_storage_container_knows_where_models_are() -> None:
    container = render(combinations()["serving"]).sole("ClusterStorageContainer")["spec"]["container"]
    plain = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    assert plain["MLFLOW_TRACKING_URI"] == "http://mlflow.mlflow.svc.cluster.local:5000"
    assert plain["AWS_ENDPOINT_URL"] == "http://seaweedfs.kubeflow.svc.cluster.local:9000"
    assert plain["TMPDIR"] == "/mnt/models", "all else is read-only"
    assert plain["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
