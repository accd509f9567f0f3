"""Triton repositories: what lies where, and configurations that Triton's own schema reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.cascade.confidences import CONFIDENCES
from compress.cascade.inference import Router
from compress.core.model import CorruptModel
from deploy.description import read_package
from deploy.export.onnx_from_model import ParityError
from deploy.export.router_onnx import router_onnx
from deploy.pull import aotinductor_file, check_package, onnx_file
from deploy.runtime.onnxruntime import session_from_bytes
from deploy.triton import CONFIG, Plan, Repository, hashes, prepare
from deploy.triton_config import Tensor, TritonModel, triton_name
from tests.deploy.stored_run import put_package
from tests.toys import TOY_INPUT


def parsed(text: str) -> Any:
    """Return a config.pbtxt as Triton reads it; an unknown field is an error."""
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="install tritonclient[grpc]")
    from google.protobuf import text_format

    return text_format.Parse(text, config.ModelConfig())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_package(tmp_path_factory.mktemp("package"))


def copied(package: Path, target: Path) -> Path:
    shutil.copytree(package, target)
    return target


def test_every_folder_of_the_root_is_a_model_that_triton_can_read(package: Path) -> None:
    names = read_package(package)["triton"]["models"]
    assert {path.name for path in package.iterdir() if path.is_dir()} == set(names)
    assert names[0] == "toy"
    assert names[-1] == "toy_cascade", "members are loaded before the cascade"
    for name in names:
        config = parsed((package / name / CONFIG).read_text())
        assert config.name == name
        assert config.max_batch_size == 64
        assert config.HasField("dynamic_batching")
        assert config.version_policy.latest.num_versions == 1
        assert [path.name for path in (package / name).iterdir() if path.is_dir() and path.name.isdigit()] == ["1"]
    assert [one.batch_size for one in parsed((package / "toy" / CONFIG).read_text()).model_warmup] == [1, 64]
    assert list(parsed((package / "toy" / CONFIG).read_text()).input[0].dims) == [1, 8, 8]


def test_the_cascade_names_members_that_nobody_shares(package: Path, tmp_path: Path) -> None:
    cascade = parsed((package / "toy_cascade" / CONFIG).read_text())
    members = {key: cascade.parameters[key].string_value for key in ("small", "router", "large")}
    assert all((package / name / "1" / "model.onnx").is_file() for name in members.values())
    assert cascade.backend == "python"
    assert not cascade.model_warmup, "its members may not be there yet"
    assert float(cascade.parameters["large_temperature"].string_value) == 1.3
    other = put_package(tmp_path, seed=5)
    assert not set(members.values()) & set(read_package(other)["triton"]["models"])


def test_a_pulled_package_gets_the_registered_version_and_the_servers_backend(package: Path, tmp_path: Path) -> None:
    folder = copied(package, tmp_path / "pulled")
    prepare(folder, version=7, backend="python")
    check_package(folder)
    assert onnx_file(folder) == folder / "toy" / "7" / "model.onnx"
    for name in read_package(folder)["triton"]["models"]:
        assert [path.name for path in (folder / name).iterdir() if path.name.isdigit()] == ["7"]
        assert parsed((folder / name / CONFIG).read_text()).backend == "python"
        assert (folder / name / "7" / "model.py").is_file()
    untouched = copied(package, tmp_path / "untouched")
    prepare(untouched)
    assert read_package(untouched) == read_package(package)


def test_a_package_for_the_python_backend_goes_back_to_onnx_runtime(package: Path, tmp_path: Path) -> None:
    folder = copied(package, tmp_path / "pulled")
    prepare(folder, backend="python")
    prepare(folder, backend="onnxruntime")
    check_package(folder)
    found = read_package(folder)["triton"]
    backends = {name: parsed((folder / name / CONFIG).read_text()).backend for name in found["models"]}
    assert backends.pop("toy_cascade") == "python", "it runs no ONNX file"
    assert set(backends.values()) == {found["backend"]} == {"onnxruntime"}


@pytest.mark.parametrize(("part", "value", "said"), [
    ("models", ["../toy"], "'../toy' is no name of a Triton model"),
    ("models", ["nobody"], "names 'nobody', of which version 1 holds no file"),
    ("version", "../../..", "valid integer"),
    ("version", 0, "greater than or equal to 1"),
])  # fmt: skip
def test_a_package_that_names_folders_outside_is_refused(
    package: Path, tmp_path: Path, part: str, value: Any, said: str
) -> None:
    folder = copied(package, tmp_path / "pulled")
    found = read_package(folder)
    (folder / "package.json").write_text(json.dumps(found | {"triton": found["triton"] | {part: value}}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CorruptModel, match=said):
        prepare(folder, version=2)
    assert sorted(tmp_path.rglob("*")) == before, "nothing was moved"


@pytest.mark.parametrize(("key", "value", "said"), [
    ("onnx", "/etc/passwd", "no path inside"),
    ("onnx", "toy/1/other.onnx", "none of the files"),
    ("model", "../model", "no path inside"),
    ("model", "nowhere", "holds none of the files"),
    ("files", {"../x": "0" * 64}, "no path inside"),
    ("files", {"toy/1/model.onnx": "?"}, "pattern"),
    ("on_request", {"tensorrt": "../x"}, "no name of a Triton model"),
    ("triton", None, "should be an object"),
])  # fmt: skip
def test_a_description_that_leads_astray_is_refused(
    package: Path, tmp_path: Path, key: str, value: Any, said: str
) -> None:
    folder = copied(package, tmp_path / "pulled")
    (folder / "package.json").write_text(json.dumps(read_package(folder) | {key: value}))
    with pytest.raises(CorruptModel, match=said):
        read_package(folder)
    (folder / "package.json").write_text("{")
    with pytest.raises(CorruptModel, match="Promote the model again"):
        read_package(folder)


@pytest.mark.parametrize("name", ["toy/1/evil.so", "toy/source/model.py", "setup.py", "toy/1/x.pkl"])
def test_code_where_no_package_has_any_is_refused(package: Path, tmp_path: Path, name: str) -> None:
    folder = copied(package, tmp_path / "pulled")
    (folder / name).write_text("import os")
    (folder / "package.json").write_text(json.dumps(read_package(folder) | {"files": hashes(folder)}))
    with pytest.raises(CorruptModel, match="is code that no package holds"):
        check_package(folder)


def test_scripts_of_a_package_are_replaced_by_our_own(package: Path, tmp_path: Path) -> None:
    folder = copied(package, tmp_path / "pulled")
    script = folder / "toy_cascade" / "1" / "model.py"
    own = script.read_text()
    script.write_text("import os; os.system('evil')")
    (folder / "package.json").write_text(json.dumps(read_package(folder) | {"files": hashes(folder)}))
    prepare(folder, version=3, backend="python")
    scripts = {path.parts[-3]: path.read_text() for path in folder.glob("*/3/model.py")}
    assert scripts["toy_cascade"] == own
    assert len(scripts) == len(read_package(folder)["triton"]["models"])
    assert not [name for name, text in scripts.items() if "evil" in text]
    check_package(folder)


def test_bytecode_beside_a_script_that_is_served_is_let_through(package: Path, tmp_path: Path) -> None:
    folder = copied(package, tmp_path / "pulled")
    bytecode = folder / "toy_cascade" / "1" / "__pycache__" / "model.cpython-311.pyc"
    bytecode.parent.mkdir()
    bytecode.write_bytes(b"")
    check_package(folder, is_served=True)
    with pytest.raises(CorruptModel, match="nobody recorded"):
        check_package(folder)
    bytecode.with_suffix(".so").write_bytes(b"")
    with pytest.raises(CorruptModel, match="nobody recorded"):
        check_package(folder, is_served=True)


def test_a_backend_that_runs_no_onnx_file_is_refused(package: Path, tmp_path: Path) -> None:
    again = copied(package, tmp_path / "again")
    with pytest.raises(ValueError, match="onnxruntime, python"):
        prepare(again, backend="caffe")


def plan(folder: Path, name: str, capability: str | None, max_batch: int = 32, level: str = "NONE") -> Plan:
    path = folder / name
    path.write_bytes(name.encode())
    manifest = {"settings": {"max_batch": max_batch, "hardware_compatibility": level}, "tensorrt": "10.16.1.11"}
    manifest |= {"compute_capability": capability} if capability else {}
    path.with_name(f"{name}.json").write_text(json.dumps(manifest))
    return Plan.read(path)


def test_engines_for_several_gpus_are_one_model(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    plans = [plan(tmp_path, "a", "8.6", 32), plan(tmp_path, "b", "9.0", 16)]
    plans.append(plan(tmp_path, "ampere", "8.0", 16, "AMPERE_PLUS"))
    repository.add_plans("toy", plans, TOY_INPUT)
    folder = tmp_path / "repository" / "toy" / "source" / "on_request" / "toy_tensorrt"
    assert repository.models == [], "a server without such a GPU would not get ready"
    config = parsed((folder / CONFIG).read_text())
    assert config.backend == "tensorrt"
    assert dict(config.cc_model_filenames) == {"8.6": "model.8.6.plan", "9.0": "model.9.0.plan"}
    assert (folder / "1" / "model.plan").read_bytes() == b"ampere", "what Triton takes on every other GPU"
    assert config.max_batch_size == 16, "the smallest of the engines' largest batches"
    assert (folder / "1" / "model.9.0.plan").read_bytes() == b"b"
    assert json.loads((folder / "source" / "model.8.6.plan.json").read_text())["compute_capability"] == "8.6"
    for bad in ([], [plans[0], plans[0]]):
        with pytest.raises(ValueError, match="one engine for each"):
            repository.add_plans("bad", bad, TOY_INPUT)
    wide = [plan(tmp_path, name, name, level="AMPERE_PLUS") for name in ("8.0", "9.0")]
    with pytest.raises(ValueError, match="no more than one for all GPUs from Ampere on"):
        repository.add_plans("bad", wide, TOY_INPUT)
    with pytest.raises(ValueError, match="build the engine again"):
        repository.add_plans("bad", [plan(tmp_path, "c", None)], TOY_INPUT)


def compiled(folder: Path, device: str) -> Path:
    folder.mkdir()
    path = folder / "model.pt2"
    path.write_bytes(b"machine code")
    path.with_name("model.pt2.json").write_text(json.dumps({"device": device}))
    return path


@pytest.mark.parametrize(("device", "is_on_cpu"), [("cpu", True), ("cuda", False)])
def test_machine_code_becomes_a_model_where_a_pull_asks_for_it(
    package: Path, tmp_path: Path, device: str, is_on_cpu: bool
) -> None:
    folder = copied(package, tmp_path / "pulled")
    repository = Repository(folder)
    repository.add_aotinductor("toy", compiled(tmp_path / "made", device), TOY_INPUT)
    found = read_package(folder) | {"on_request": repository.on_request, "files": hashes(folder)}
    (folder / "package.json").write_text(json.dumps(found))
    asleep = copied(folder, tmp_path / "asleep")
    prepare(asleep, version=7)
    check_package(asleep)
    assert not (asleep / "toy_aotinductor").exists()
    assert aotinductor_file(asleep).read_bytes() == b"machine code"
    prepare(folder, version=7, backend="python", also=["aotinductor"])
    check_package(folder)
    assert read_package(folder)["triton"]["models"][-1] == "toy_aotinductor"
    assert aotinductor_file(folder) == folder / "toy_aotinductor" / "7" / "model.pt2"
    assert {path.name for path in (folder / "toy_aotinductor" / "7").iterdir()} == {
        "model.py", "model.pt2", "model.pt2.json",
    }  # fmt: skip
    config = parsed((folder / "toy_aotinductor" / CONFIG).read_text())
    assert (config.name, config.backend, list(config.input[0].dims)) == ("toy_aotinductor", "python", [1, 8, 8])
    assert [one.kind for one in config.instance_group] == ([2] if is_on_cpu else []), "2 is KIND_CPU"
    prepare(folder, version=8, also=["aotinductor"])
    assert aotinductor_file(folder).parent.name == "8"
    assert read_package(folder)["triton"]["models"].count("toy_aotinductor") == 1


def test_an_engine_is_shown_to_a_server_on_request_alone(package: Path, tmp_path: Path) -> None:
    folder = copied(package, tmp_path / "pulled")
    repository = Repository(folder)
    repository.add_plans("toy", [plan(tmp_path, "a", "8.6")], TOY_INPUT)
    found = read_package(folder) | {"on_request": repository.on_request, "files": hashes(folder)}
    (folder / "package.json").write_text(json.dumps(found))
    asleep = copied(folder, tmp_path / "asleep")
    prepare(asleep, version=7)
    assert "toy_tensorrt" not in read_package(asleep)["triton"]["models"]
    prepare(folder, version=7, also=["tensorrt"])
    check_package(folder)
    assert read_package(folder)["triton"]["models"][-1] == "toy_tensorrt", "loaded last: a refusal keeps nothing back"
    assert (folder / "toy_tensorrt" / "7" / "model.8.6.plan").read_bytes() == b"a"


def test_machine_code_that_is_not_there_is_refused(package: Path, tmp_path: Path) -> None:
    folder = copied(package, tmp_path / "pulled")
    with pytest.raises(ValueError, match=r"no model of kind 'aotinductor' \(there is: none"):
        prepare(folder, version=2, also=["aotinductor"])


def test_a_field_that_triton_does_not_know_is_refused_by_its_schema() -> None:
    model = TritonModel(name="toy", backend="python", inputs=[Tensor(name="x", dims=[1])], outputs=[])
    text = model.pbtxt()
    assert parsed(text).name == "toy"
    from google.protobuf import text_format

    with pytest.raises(text_format.ParseError, match="max_batch_sise"):
        parsed(text.replace("max_batch_size", "max_batch_sise"))


def test_names_become_folders() -> None:
    assert triton_name("team a/../digits") == "team_a____digits"
    with pytest.raises(ValueError, match="letters and digits"):
        triton_name("///")


@pytest.mark.parametrize("confidence", sorted(CONFIDENCES))
@pytest.mark.parametrize("threshold", [-1.0, 0.35, 1.0])
def test_the_routers_file_decides_like_the_library(tmp_path: Path, confidence: str, threshold: float) -> None:
    router = Router(
        small="a", large="b", digests=("", ""), confidence=CONFIDENCES.bind(confidence), threshold=threshold,
        temperature=(0.7, 2.0),
    )  # fmt: skip
    path = tmp_path / "router.onnx"
    router_onnx(router, 10, path)
    logits_BC = torch.randn(500, 10, generator=torch.Generator().manual_seed(3)) * 4
    scaled, deferred = session_from_bytes(path.read_bytes()).run(None, {"logits": logits_BC.numpy()})
    found = router(lambda x: x, lambda x: x, logits_BC)
    assert (deferred[:, 0] == found.is_deferred_B.numpy()).all()
    kept = ~found.is_deferred_B.numpy()
    assert np.allclose(scaled[kept], found.logits_BC.numpy()[kept], atol=1e-6)
    assert {True, False} == set(deferred[:, 0].tolist()) or abs(threshold) == 1.0


def test_a_router_that_decides_otherwise_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def run(self, _: Any, given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            return given["logits"], np.zeros((len(given["logits"]), 1), bool)

    monkeypatch.setattr("deploy.runtime.onnxruntime.session_from_bytes", lambda *_: Wrong())
    router = Router(small="a", large="b", digests=("", ""), confidence=CONFIDENCES.bind("margin"), threshold=0.5)
    with pytest.raises(ParityError, match="decides otherwise than the library"):
        router_onnx(router, 3, tmp_path / "router.onnx")
