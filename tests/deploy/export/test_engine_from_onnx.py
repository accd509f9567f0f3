from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

from deploy.export import engine_from_onnx as module
from deploy.export.engine_from_onnx import (
    EngineError,
    EngineSettings,
    TensorRTMissing,
    engine_from_onnx,
    require_tensorrt,
)
from deploy.export.engine_manifest import gpu_facts
from deploy.export.onnx_from_model import onnx_from_model
from tests.deploy.export.fake_tensorrt import FakeTensorRT
from tests.toys import toy_model


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_from_model(toy_model(), tmp_path_factory.mktemp("onnx") / "m.onnx").path


def test_the_network_is_strongly_typed_and_takes_the_profile(source: Path, tmp_path: Path) -> None:
    trt = FakeTensorRT()
    settings = EngineSettings(
        min_batch=2, opt_batch=4, max_batch=16, workspace_bytes=123, optimization_level=5,
        is_version_compatible=True, hardware_compatibility="AMPERE_PLUS",
    )  # fmt: skip
    engine_from_onnx(source, tmp_path / "m.plan", settings=settings, trt=trt)
    assert trt.network.flags == 1 << 1
    assert trt.parsed == str(source)
    assert trt.config.asked_profiles[0].shapes == {"input": ((2, 3, 8, 8), (4, 3, 8, 8), (16, 3, 8, 8))}
    assert trt.config.asked_pools == {"WORKSPACE": 123}
    assert trt.config.builder_optimization_level == 5
    assert trt.config.hardware_compatibility_level == "ampere"
    assert trt.config.asked_flags == ["VERSION_COMPATIBLE"]
    assert trt.config.asked_cache is None


def test_no_flag_is_set_unless_asked_for(source: Path, tmp_path: Path) -> None:
    trt = FakeTensorRT()
    engine_from_onnx(source, tmp_path / "m.plan", trt=trt)
    assert trt.config.asked_flags == []
    assert trt.config.hardware_compatibility_level == "none"


def test_engine_and_manifest_are_written(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_IMAGE_DIGEST", "sha256:0")
    monkeypatch.setenv("SECATEUR_TRITON_TAG", "26.09-py3")
    built = engine_from_onnx(source, tmp_path / "deep" / "m.plan", trt=FakeTensorRT())
    assert built.path.read_bytes() == b"ENGINE!"
    assert built.size_bytes == 7
    manifest = json.loads((tmp_path / "deep" / "m.plan.json").read_text())
    assert manifest == built.manifest
    assert manifest["tensorrt"] == "10.16.1.11"
    assert manifest["is_strongly_typed"] is True
    assert manifest["engine"] == {"bytes": 7, "sha256": hashlib.sha256(b"ENGINE!").hexdigest()}
    assert manifest["onnx"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert manifest["onnx"]["opset"] == 18
    assert manifest["settings"]["max_batch"] == 32
    assert manifest["precisions"] == {"Float": 1, "Half": 2}
    assert manifest["timing_cache_sha256"] is None
    assert manifest["build_seconds"] >= 0
    assert manifest["builder_flags"] == []
    assert manifest["profiles"] == [{"min": 1, "opt": 8, "max": 32}]
    assert (manifest["image"], manifest["triton"]) == ("sha256:0", "26.09-py3")


def test_the_timing_cache_is_read_and_written(source: Path, tmp_path: Path) -> None:
    settings = EngineSettings(timing_cache=tmp_path / "cache" / "timing.cache")
    first, second = FakeTensorRT(), FakeTensorRT()
    engine_from_onnx(source, tmp_path / "m.plan", settings=settings, trt=first)
    built = engine_from_onnx(source, tmp_path / "m.plan", settings=settings, trt=second)
    assert tuple(one.config.asked_cache.asked_bytes for one in (first, second)) == (b"", b"+timings")
    assert built.manifest["timing_cache_sha256"] == hashlib.sha256(b"+timings+timings").hexdigest()
    assert built.manifest["settings"]["timing_cache"] == "timing.cache"


def test_timings_of_another_gpu_are_left_alone(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, trt = tmp_path / "timing.cache", FakeTensorRT()
    cache.write_bytes(b"foreign")
    monkeypatch.setattr(FakeTensorRT, "refused_timings", b"foreign")
    engine_from_onnx(source, tmp_path / "m.plan", settings=EngineSettings(timing_cache=cache), trt=trt)
    assert cache.read_bytes() == b"+timings"


def test_an_unknown_hardware_level_is_refused() -> None:
    with pytest.raises(ValueError, match="AMPERE_PLUS"):
        EngineSettings(hardware_compatibility="AMPERE_PLUSS")


def test_what_the_parser_says_is_said(source: Path, tmp_path: Path) -> None:
    trt = FakeTensorRT(parse_errors=("no importer for NonZero", "node 7 is bad"))
    with pytest.raises(EngineError, match=r"cannot read m\.onnx: no importer for NonZero; node 7 is bad"):
        engine_from_onnx(source, tmp_path / "m.plan", trt=trt)
    assert not (tmp_path / "m.plan").exists()


def test_no_engine_is_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="built no engine"):
        engine_from_onnx(source, tmp_path / "m.plan", trt=FakeTensorRT(plan=None))
    assert not (tmp_path / "m.plan").exists()


def test_an_engine_that_does_not_load_has_no_census(source: Path, tmp_path: Path) -> None:
    trt = FakeTensorRT()
    trt.is_loadable = False
    assert engine_from_onnx(source, tmp_path / "m.plan", trt=trt).manifest["precisions"] == {}


@pytest.mark.parametrize("batches", [(0, 1, 2), (4, 2, 8), (1, 9, 8)])
def test_batches_out_of_order_are_refused(batches: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="min <= opt <= max"):
        EngineSettings(min_batch=batches[0], opt_batch=batches[1], max_batch=batches[2])


def test_without_the_package_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(TensorRTMissing, match=r"cannot be imported .*install secateur\[tensorrt\]"):
        require_tensorrt()


def test_without_a_gpu_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT())  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TensorRTMissing, match=r"TensorRT 10\.16\.1\.11 is installed, but torch sees no NVIDIA GPU"):
        engine_from_onnx(source, tmp_path / "m.plan")
    assert gpu_facts() == {}


def test_a_gpu_and_the_package_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert require_tensorrt() is fake  # type: ignore[comparison-overlap]


def test_facts_about_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Test GPU")
    facts = gpu_facts()
    assert (facts["gpu"], facts["compute_capability"]) == ("Test GPU", "9.0")
    assert set(facts) == {"gpu", "compute_capability", "cuda_runtime", "cuda_driver"}


def test_only_shared_names_are_used() -> None:
    text = Path(module.__file__).read_text()
    for removed in ("EXPLICIT_BATCH", "BuilderFlag.FP16", "BuilderFlag.INT8", "int8_calibrator"):
        assert removed not in text
