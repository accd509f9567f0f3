"""KServe manifests: the fields of KServe's own models, pinned images, and what belongs to one service alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress import cli
from deploy.kserve import (
    Serving,
    Storage,
    address_of,
    inference_service,
    manifests,
    read_address,
    serving_runtime,
    storage_container,
)
from deploy.pods import as_yaml

ROOT = Path(__file__).parents[2]
#: An environment with kserve; it needs older pandas and psutil than this project's.
KSERVE = Path(os.environ.get("SECATEUR_KSERVE_VENV", ROOT / ".venv-kserve"))


def serving(**changes: Any) -> Serving:
    facts: dict[str, Any] = {
        "name": "digits", "model": "models:/digits@champion", "triton_image": "registry.example/tritonserver:26.09-py3",
    }  # fmt: skip
    return Serving(**(facts | changes))


def storage(**changes: Any) -> Storage:
    facts = {"image": "registry.example/secateur@sha256:" + "0" * 64, "tracking_uri": "http://mlflow.mlflow:5000"}
    return Storage(**(facts | changes))


CHECK = """
import json, re, sys
import kserve, kubernetes.client
def model(kind):
    return getattr(kserve, kind, None) or getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind, None)
def check(kind, value, path):
    if m := re.fullmatch(r"list\\[(.*)\\]", kind):
        for index, one in enumerate(value):
            check(m[1], one, f"{path}[{index}]")
    elif m := re.fullmatch(r"dict\\((?:[^,]*), (.*)\\)|dict\\[(?:[^,]*), (.*)\\]", kind):
        for key, one in value.items():
            check(m[1] or m[2], one, f"{path}.{key}")
    elif (found := model(kind)) is not None and hasattr(found, "attribute_map"):
        names = {json_name: name for name, json_name in found.attribute_map.items()}
        for key, one in value.items():
            assert key in names, f"{path}: {kind} has no field {key}"
            check(found.openapi_types[names[key]], one, f"{path}.{key}")
    else:
        wanted = {"str": str, "int": int, "bool": bool}.get(kind)
        assert wanted is None or type(value) is wanted, f"{path} is {value!r}, not {kind}"
for one in json.load(sys.stdin):
    version = one["apiVersion"].rpartition("/")[2].replace("v1", "V1", 1)
    check(version + one["kind"], one, one["kind"])
print("ok")
"""


def checked(documents: list[Any]) -> subprocess.CompletedProcess[str]:
    command = [str(KSERVE / "bin" / "python"), "-c", CHECK]
    return subprocess.run(command, input=json.dumps(documents), capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(not (KSERVE / "bin" / "python").exists(), reason=f"no kserve: run `make {KSERVE.name}/.done`")
def test_every_field_is_one_of_kserves_own_models() -> None:
    for made in (serving(), serving(gpus=1, namespace="ml", models=("digits",), backend="python")):
        done = checked([storage_container(storage(secret="s3")), *manifests(made)])
        assert done.stdout == "ok\n", done.stderr
    wrong = manifests(serving())
    wrong[1]["spec"]["predictor"]["model"]["storageUrl"] = "x"
    assert "V1beta1ModelSpec has no field storageUrl" in checked(wrong).stderr
    wrong = manifests(serving())
    wrong[0]["spec"]["multiModel"] = "no"
    assert "multiModel is 'no', not bool" in checked(wrong).stderr


def test_what_belongs_together_names_each_other() -> None:
    made = serving(namespace="ml", backend="python", models=("digits_cascade",))
    spec = storage_container(storage())["spec"]
    assert spec["container"]["name"] == "storage-initializer", "KServe finds the container by this name"
    service, runtime = inference_service(made), serving_runtime(made)
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["storageUri"] == "models://digits@champion?backend=python&load=digits_cascade"
    assert read_address(model["storageUri"]) == ("models:/digits@champion", "python", ["digits_cascade"])
    assert address_of(serving()) == "models://digits@champion"
    assert any(model["storageUri"].startswith(one["prefix"]) for one in spec["supportedUriFormats"])
    assert service["metadata"]["namespace"] == runtime["metadata"]["namespace"] == "ml"
    assert "resources" not in model
    assert (
        inference_service(serving(gpus=2))["spec"]["predictor"]["model"]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    )


def test_one_service_changes_nothing_of_another() -> None:
    """KServe's download is one object of the cluster: it holds nothing of a service, and a Secret may be missing."""
    kinds = [one["kind"] for one in manifests(serving(backend="python", models=("digits",)))]
    assert kinds == ["ServingRuntime", "InferenceService"]
    container = storage_container(storage(secret="s3"))["spec"]["container"]
    assert "envFrom" not in container
    assert {one["name"] for one in container["env"] if "value" in one} == {"MLFLOW_TRACKING_URI", "HOME"}
    secrets = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one}
    assert {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_TOKEN"} <= set(secrets)
    assert {(found["name"], found["optional"]) for found in secrets.values()} == {("s3", True)}


@pytest.mark.parametrize(
    "address", ["models://a@b?backend=python&secret=s3", "models://a@b?load", "models://a@b?backend=a&backend=b"]
)
def test_an_address_says_nothing_else(address: str) -> None:
    with pytest.raises(ValueError, match="after the question mark"):
        read_address(address)


def test_containers_are_restricted_and_triton_loads_all_that_the_download_left() -> None:
    runtime = serving_runtime(serving(models=("digits", "digits_cascade")))
    for container in (storage_container(storage())["spec"]["container"], *runtime["spec"]["containers"]):
        assert container["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
    assert not any("load-model" in word or "control-mode" in word for word in container["args"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"triton_image": "registry.example/tritonserver"}, "give a tag or a digest"),
        ({"triton_image": "registry.example:5000/tritonserver"}, "give a tag or a digest"),
        ({"name": "Digits_1"}, "lower-case"),
        ({"model": "digits@champion"}, "models:/NAME@ALIAS"),
        ({"model": "models:/digits@champion?backend=python"}, "without '?'"),
        ({"model": "models:/digits"}, "models:/NAME@ALIAS"),
        ({"models": ["x/y"]}, "no name of a Triton model"),
        ({"shared_memory": "8x"}, "for example 2Gi"),
        ({"triton_image": ""}, "triton_image is missing"),
        ({"backend": "caffe"}, "onnxruntime, python"),
        ({"replicas": (3, 1)}, "smallest <= largest"),
    ],
)
def test_what_cannot_be_right_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serving(**changes)


@pytest.mark.parametrize(("image", "uri"), [("secateur:latest", "http://mlflow:5000"), ("secateur:1", "")])
def test_a_download_that_cannot_be_right_is_refused(image: str, uri: str) -> None:
    with pytest.raises(ValueError, match=r"give a tag or a digest|tracking_uri is empty"):
        storage(image=image, tracking_uri=uri)


def test_the_command_prints_manifests(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made, download = serving(gpus=1), storage(secret="s3")
    words = ["secateur", "kserve", made.model, "--name", made.name, "--triton-image", made.triton_image, "--gpus", "1"]
    more = ["--image", download.image, "--tracking-uri", download.tracking_uri, "--secret", "s3"]

    def said(*words: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", list(words))
        with pytest.raises(SystemExit):
            cli.main()
        found = capsys.readouterr()
        return found.out, found.err

    text, _ = said(*words)
    assert text == as_yaml(manifests(made))
    assert list(yaml.safe_load_all(text)) == manifests(made)
    text, _ = said(*words, "--storage-container", *more)
    assert list(yaml.safe_load_all(text)) == [storage_container(download), *manifests(made)]
    text, complaint = said(*words, *more)
    assert not text, "nothing is silently left out"
    assert "add --storage-container" in " ".join(complaint.split())
