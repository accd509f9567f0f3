"""Triton's model file for AOTInductor packages, with a stand-in for the module that the Python backend brings.

`tests/deploy/test_aotinductor_package.py` runs it in a real tritonserver.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deploy import triton
from deploy.export import aotinductor_from_model
from deploy.runtime import aotinductor

SCRIPT = Path(triton.__file__).with_name("triton_backend") / "aotinductor_model.py"


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name, self._array = name, array

    def as_numpy(self) -> np.ndarray:
        return self._array


class InferenceResponse:
    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model file, loaded as Triton loads it: from its path."""
    stand_in = types.ModuleType("triton_python_backend_utils")
    stand_in.Tensor, stand_in.InferenceResponse = Tensor, InferenceResponse  # type: ignore[attr-defined]
    stand_in.get_input_tensor_by_name = lambda request, name: request[name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    spec = importlib.util.spec_from_file_location("aotinductor_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def package(folder: Path, *names: str, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """Write an archive that holds nothing of use, with the manifest of a package for this machine."""
    (folder / "1").mkdir(parents=True)
    path = folder / "1" / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names or ("model/a.so", "model/a.json", "archive_format"):
            archive.writestr(name, b"0")
    manifest = {
        "torch": str(torch.__version__), "platform": sys.platform, "machine": platform.machine(), "device": "cpu",
        "cpu_isa": [], "num_threads": torch.get_num_threads(), "cuda": "", "compute_capability": "",
        "archive": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}, **changes,
    }  # fmt: skip
    path.with_name("model.pt2.json").write_text(json.dumps(manifest))
    return path, manifest


def test_it_knows_what_the_library_knows(module: Any) -> None:
    assert module.INSTRUCTIONS == aotinductor.INSTRUCTIONS
    assert module.ALLOWED_SUFFIXES == aotinductor_from_model.ALLOWED_SUFFIXES
    assert module.ALLOWED_NAMES == aotinductor_from_model.ALLOWED_NAMES


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"torch": "1.0"},
        {"platform": "win32"},
        {"machine": "riscv64"},
        {"cpu_isa": ["AVX2", "AVX512", "AMX_TILE"]},
        {"device": "cuda", "cuda": "1.0", "compute_capability": "9.0"},
        {"device": "cuda", "cuda": str(torch.version.cuda), "compute_capability": "1.0"},
    ],
)
def test_it_refuses_the_machines_that_the_library_refuses(module: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    path, manifest = package(tmp_path, **changes)
    assert bool(module._objection(path, manifest)) == bool(aotinductor.mismatch(manifest))


@pytest.mark.parametrize("name", ["model/data.pkl", "model/models/model.json.pt2", "../a.so", "/a.so", "model/a.py"])
def test_an_archive_with_anything_else_in_it_is_not_loaded(module: Any, tmp_path: Path, name: str) -> None:
    package(tmp_path, "model/a.so", name)
    with pytest.raises(RuntimeError, match="which no compiled package needs"):
        module.TritonPythonModel().initialize({"model_repository": str(tmp_path), "model_version": "1"})


def test_a_changed_archive_is_not_loaded(module: Any, tmp_path: Path) -> None:
    path, _ = package(tmp_path)
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(RuntimeError, match="not the archive that its manifest describes"):
        module.TritonPythonModel().initialize({"model_repository": str(tmp_path), "model_version": "1"})


def test_batched_requests_share_one_call_and_get_their_own_rows(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = package(tmp_path)
    loaded, batches = [], []

    def load(name: str, device_index: int) -> Any:
        loaded.append((name, device_index))

        def call(x_BCHW: torch.Tensor) -> torch.Tensor:
            batches.append(len(x_BCHW))
            return x_BCHW.flatten(1).sum(1, keepdim=True)

        return call

    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
    model = module.TritonPythonModel()
    model.initialize({"model_repository": str(tmp_path), "model_version": "1", "model_instance_device_id": "0"})
    sizes = (1, 3, 2)
    arrays = [np.full((size, 1, 2, 2), index, np.float32) for index, size in enumerate(sizes)]
    answers = model.execute([{"input": Tensor("input", array)} for array in arrays])
    assert loaded == [(str(path), -1)]
    assert batches == [6]
    for index, (size, answer) in enumerate(zip(sizes, answers, strict=True)):
        (tensor,) = answer.tensors
        assert tensor.name == "logits"
        assert (tensor.as_numpy() == 4 * index).all()
        assert tensor.as_numpy().shape == (size, 1)
