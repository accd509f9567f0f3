"""KServe manifests: the fields of KServe's own models, pinned images, and the init container that fills the folder."""

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
from compress.store import LocalStore
from deploy.kserve import BACKEND, Serving, inference_service, manifests, serving_runtime, storage_container
from deploy.pods import as_yaml
from deploy.promote import promote
from deploy.pull import check_package, load, read_package
from deploy.storage_initializer import INCOMING, fill, main
from tests.deploy.stored_run import fresh_uri, put_run

ROOT = Path(__file__).parents[2]
#: An environment with kserve; it needs older pandas and psutil than this project's.
KSERVE = Path(os.environ.get("SECATEUR_KSERVE_VENV", ROOT / ".venv-kserve"))


def serving(**changes: Any) -> Serving:
    facts: dict[str, Any] = {
        "name": "digits", "model": "models:/digits@champion", "triton_image": "registry.example/tritonserver:26.09-py3",
        "image": "registry.example/secateur@sha256:" + "0" * 64, "tracking_uri": "http://mlflow.mlflow:5000",
    }  # fmt: skip
    return Serving(**(facts | changes))


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
    for made in (serving(), serving(gpus=1, secret="s3", namespace="ml", models=("digits",), backend="python")):
        done = checked(manifests(made))
        assert done.stdout == "ok\n", done.stderr
    wrong = manifests(serving())
    wrong[2]["spec"]["predictor"]["model"]["storageUrl"] = "x"
    assert "V1beta1ModelSpec has no field storageUrl" in checked(wrong).stderr
    wrong = manifests(serving())
    wrong[1]["spec"]["multiModel"] = "no"
    assert "multiModel is 'no', not bool" in checked(wrong).stderr


def test_what_belongs_together_names_each_other() -> None:
    made = serving(secret="s3", namespace="ml", backend="python")
    container = storage_container(made)["spec"]["container"]
    assert container["name"] == "storage-initializer", "KServe finds the container by this name"
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert {"name": BACKEND, "value": "python"} in container["env"]
    service, runtime = inference_service(made), serving_runtime(made)
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["storageUri"] == "models://digits@champion"
    assert any(
        model["storageUri"].startswith(one["prefix"]) for one in storage_container(made)["spec"]["supportedUriFormats"]
    )
    assert service["metadata"]["namespace"] == runtime["metadata"]["namespace"] == "ml"
    assert "resources" not in model
    assert (
        inference_service(serving(gpus=2))["spec"]["predictor"]["model"]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    )


def test_containers_are_restricted_and_load_what_was_chosen() -> None:
    for container in (
        storage_container(serving())["spec"]["container"],
        *serving_runtime(serving(models=("digits", "digits_cascade")))["spec"]["containers"],
    ):
        assert container["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
    assert container["args"][-3:] == [
        "--model-control-mode=explicit", "--load-model=digits", "--load-model=digits_cascade",
    ]  # fmt: skip
    assert not any("control-mode" in word for word in serving_runtime(serving())["spec"]["containers"][0]["args"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"triton_image": "registry.example/tritonserver"}, "give a tag or a digest"),
        ({"triton_image": "registry.example:5000/tritonserver"}, "give a tag or a digest"),
        ({"image": "secateur:latest"}, "give a tag or a digest"),
        ({"name": "Digits_1"}, "lower-case"),
        ({"model": "digits@champion"}, "models:/NAME@ALIAS"),
        ({"replicas": (3, 1)}, "smallest <= largest"),
    ],
)
def test_what_cannot_be_right_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serving(**changes)


def test_the_command_prints_manifests(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = serving(gpus=1)
    words = ["secateur", "kserve", made.model, "--name", made.name, "--triton-image", made.triton_image]
    words += ["--image", made.image, "--tracking-uri", made.tracking_uri, "--gpus", "1"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    assert text == as_yaml(manifests(made))
    assert list(yaml.safe_load_all(text)) == manifests(made)


@pytest.mark.slow
def test_the_init_container_fills_a_mounted_folder_and_makes_up_for_a_killed_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, store, mount = fresh_uri(tmp_path), LocalStore(tmp_path / "store"), tmp_path / "models"
    refs = put_run(store, tmp_path / "files")
    assert promote(store, uri, "toy", refs["export"], refs["gate"], refs["cascade"])["promoted"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv(BACKEND, "python")
    mount.mkdir()
    node = mount.stat().st_ino
    assert main(["models://toy@champion", str(mount)]) == 0
    assert mount.stat().st_ino == node, "a mounted folder cannot be replaced"
    check_package(mount)
    assert load(mount).input
    assert not [path for path in mount.rglob("*") if path.is_symlink()], "a mount is seen without what is beside it"
    assert not [path.name for path in mount.iterdir() if path.name.startswith(".")]
    assert {path.name for path in mount.iterdir() if path.is_dir()} == set(read_package(mount)["triton"]["models"])
    (mount / "package.json").unlink()
    (mount / INCOMING).touch()
    (mount / ".partial" / "half").mkdir(parents=True)
    fill("models:/toy@champion", mount, uri=uri)
    check_package(mount)
    assert main(["models://toy@nobody", str(tmp_path / "other")]) == 1
    assert main(["models://toy@champion"]) == 2
    assert main(["s3://bucket/net", str(tmp_path / "other")]) == 1
    assert "its aliases are" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="empty folder"):
        fill("models:/toy@champion", tmp_path, uri="http://127.0.0.1:9")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
