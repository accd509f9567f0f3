from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from compress.core.registry import UnknownName
from compress.core.stage import STAGES, Ref, StageCall, StageResult, identity
from compress.core.task import InputSpec, Task
from compress.measure import cost_of
from compress.measure.paired import PairedLatency
from deploy.export import engine_choice, engine_from_onnx, int8_choice
from deploy.export.engine_from_onnx import EngineError, TensorRTMissing
from deploy.runtime.onnxruntime import OnnxSession
from deploy.runtime.tensorrt import EngineSession
from deploy.stages import export as stage
from deploy.stages.export import ExportConfig, export
from tests.deploy.export.fake_tensorrt import FakeTensorRT
from tests.deploy.export.trained_toy import trained_toy
from tests.toys import toy_entry, toy_task

SMALL = {"calibration_images": 48, "rounds": 3, "variants": ("unsigned_per_channel", "signed_per_channel")}


def timed(monkeypatch: pytest.MonkeyPatch, times_ms: Mapping[str, float]) -> None:
    """Let the paired measurement answer with fixed times."""

    def fake(sessions: Mapping[str, Any], x_BCHW: Any, *, rounds: int, **_: Any) -> PairedLatency:
        return PairedLatency({name: (times_ms[name],) * rounds for name in sessions})

    monkeypatch.setattr(int8_choice, "paired_sessions", fake)


def run(folder: Path, task: Task | None = None, **options: Any) -> StageResult:
    config = ExportConfig(**{**SMALL, **options})
    entry = toy_entry(trained_toy())
    return export(StageCall(config=config, parents={"model": entry}, scratch=folder, optional_task=task or toy_task()))


def test_a_faster_int8_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {"fp32": 4.0, "unsigned_per_channel": 2.0, "signed_per_channel": 5.0})
    result = run(tmp_path)
    int8 = result.report["int8"]
    assert (int8["status"], int8["chosen"]) == ("accepted", "unsigned_per_channel")
    speedups = {variant["name"]: variant["speedup_vs_fp32"]["value"] for variant in int8["variants"]}
    assert speedups == {"unsigned_per_channel": 2.0, "signed_per_channel": 0.8}
    assert set(result.files) == {"model.onnx", "model.int8.onnx"}
    kinds = {node.op_type for node in onnx.load(str(result.files["model.int8.onnx"])).graph.node}
    assert "QuantizeLinear" in kinds


def test_a_slower_int8_is_refused_and_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {"fp32": 4.0, "unsigned_per_channel": 4.1, "signed_per_channel": 5.0})
    result = run(tmp_path)
    assert result.report["int8"]["status"] == "refused"
    assert result.report["int8"]["chosen"] is None
    assert "not faster than fp32" in result.report["int8"]["reason"]
    assert set(result.files) == {"model.onnx"}


def test_report_and_package(tmp_path: Path) -> None:
    result = run(tmp_path)
    report, model = result.report, trained_toy()
    assert set(report) == {"cost", "validation_accuracy", "onnx", "int8", "tensorrt"}
    json.dumps(report, allow_nan=False)
    path = result.files["model.onnx"]
    assert report["onnx"]["size_bytes"] == path.stat().st_size == report["cost"]["size_bytes"]
    assert report["onnx"]["opset"] == 18
    assert report["onnx"]["parity_max_abs"] <= 1e-4
    assert report["cost"]["macs"] == cost_of(model).macs
    assert report["validation_accuracy"] == 1.0
    assert report["tensorrt"]["status"] == "skipped"
    assert report["tensorrt"]["reason"]
    assert set(report["int8"]["variants"][0]["speedup_by_batch"]) == {"b32", "b1"}
    assert result.model is model
    x_BCHW = model.input.example(3)
    np.testing.assert_allclose(OnnxSession(path).infer(x_BCHW.numpy()), model(x_BCHW).numpy(), atol=1e-4)
    assert {item.key: item.value for item in onnx.load(str(path)).metadata_props}["ref"] == "toy-0000000000000000"


def test_no_variants_no_int8(tmp_path: Path) -> None:
    int8 = run(tmp_path, variants=()).report["int8"]
    assert int8 == {
        "status": "refused",
        "reason": "no INT8 variant was asked for.",
        "batch": 32,
        "variants": [],
        "chosen": None,
    }


class HalfSession:
    """Stands in for the engine's session: answers as torch does, off by a shift in the first logit."""

    name, shift = "tensorrt", 0.001

    def __init__(self, path: Path, *, trt: Any) -> None:
        self.path = path
        assert path.read_bytes() == b"ENGINE!"
        assert isinstance(trt, FakeTensorRT)

    def infer(self, x_BCHW: np.ndarray) -> np.ndarray:
        assert 1 <= len(x_BCHW) <= 4
        logits_BC = trained_toy()(torch.from_numpy(x_BCHW)).numpy().copy()
        logits_BC[:, 0] += self.shift
        return logits_BC


def with_engine(monkeypatch: pytest.MonkeyPatch, fake: FakeTensorRT, folder: Path, *, shift: float = 0.001) -> None:
    """Let TensorRT be there, and its engine be off by `shift`."""
    monkeypatch.setattr(stage, "require_tensorrt", lambda: fake)
    monkeypatch.setattr(HalfSession, "shift", shift)
    monkeypatch.setattr(stage, "EngineSession", HalfSession)
    monkeypatch.setenv("SECATEUR_CACHE", str(folder))


def test_an_engine_is_built_where_tensorrt_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT()
    with_engine(monkeypatch, fake, tmp_path)
    result = run(tmp_path, variants=(), engine_batch_max=4)
    assert result.report["tensorrt"]["status"] == "built"
    assert result.report["tensorrt"]["size_bytes"] == 7
    assert result.files["model.plan"].read_bytes() == b"ENGINE!"
    assert json.loads(result.files["model.plan.json"].read_text())["settings"]["max_batch"] == 4
    assert fake.parsed.endswith("model.half.onnx")
    assert fake.config.asked_profiles[0].shapes["input"][1][0] == 4
    compared = result.report["tensorrt"]["parity"]
    assert compared["max_abs"] == pytest.approx(0.001, abs=1e-4)
    assert compared["limit"] >= 0.02

    assert set(result.report["tensorrt"]["latency"]) == {"b4", "b1"}
    assert set(result.report["tensorrt"]["latency"]["b4"]["median_ms"]) == {"onnxruntime", "fp16"}
    assert result.report["tensorrt"]["validation_accuracy"] >= 0.95
    caches = list(tmp_path.glob("tensorrt/timing-10.16.1.11-sm*.cache"))
    assert [path.read_bytes() for path in caches] == [b"+timings"]
    json.dumps(result.report, allow_nan=False)


def test_a_version_compatible_engine_is_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real session on the stand-in's engine: it needs the right to run what the engine carries."""
    fake = FakeTensorRT()
    monkeypatch.setattr(stage, "require_tensorrt", lambda: fake)
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    opened = []
    monkeypatch.setattr(
        stage, "EngineSession", lambda path, *, trt: opened.append(EngineSession(path, trt=trt)) or HalfSession
    )
    run(tmp_path, variants=(), engine_batch_max=4, engine_version_compatible=True)
    assert [session.path.read_bytes() for session in opened] == [b"CODEENGINE!"]


def int8_times(monkeypatch: pytest.MonkeyPatch, int8_ms: float) -> None:
    times_ms = {"onnxruntime": 9.0, "fp16": 4.0, "int8": int8_ms}

    def fake(sessions: Mapping[str, Any], x_BCHW: Any, *, rounds: int, **_: Any) -> PairedLatency:
        return PairedLatency({name: (times_ms[name],) * rounds for name in sessions})

    monkeypatch.setattr(engine_choice, "paired_sessions", fake)


@pytest.mark.parametrize(("int8_ms", "precision", "said"), [
    (2.0, "int8", "2.00x [2.00, 2.00] of the speed of FP16"),
    (5.0, "fp16", "not surely faster: FP16 is kept"),
])  # fmt: skip
def test_an_int8_engine_must_beat_fp16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8_ms: float, precision: str, said: str
) -> None:
    fake = FakeTensorRT()
    with_engine(monkeypatch, fake, tmp_path)
    int8_times(monkeypatch, int8_ms)
    report = run(tmp_path, variants=(), engine_batch_max=4, engine_int8=True).report["tensorrt"]
    assert fake.parsed.endswith("model.int8_half.onnx")
    assert report["precision"] == precision
    assert report["int8"]["status"] == ("accepted" if precision == "int8" else "refused")
    assert said in report["int8"]["reason"]
    assert report["latency"]["b4"]["speedup"]["fp16"]["value"] == 2.25


def test_an_engine_of_bfloat16_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, FakeTensorRT(), tmp_path)
    report = run(tmp_path, variants=(), engine_batch_max=4, engine_precision="bf16").report["tensorrt"]
    assert report["precision"] == "bf16"
    assert set(report["latency"]["b4"]["median_ms"]) == {"onnxruntime", "bf16"}


def test_an_int8_engine_that_cannot_be_built_leaves_fp16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, FakeTensorRT(), tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise EngineError("no tactic for Conv")

    monkeypatch.setattr(stage, "calibration_batches", refuse)
    result = run(tmp_path, variants=(), engine_batch_max=4, engine_int8=True)
    assert result.report["tensorrt"]["precision"] == "fp16"
    assert "no tactic for Conv" in result.report["tensorrt"]["int8"]["reason"]
    assert "model.plan" in result.files


def test_an_engine_that_loses_accuracy_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, FakeTensorRT(), tmp_path)
    monkeypatch.setattr(stage.EngineBench, "accuracy", lambda self, session: 0.5)
    result = run(tmp_path, variants=(), engine_batch_max=4)
    assert "FP16 engine has 50.00% validation accuracy" in result.report["tensorrt"]["reason"]
    assert set(result.files) == {"model.onnx"}


@pytest.mark.parametrize("shift", [50.0, float("nan")])
def test_an_engine_that_answers_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    with_engine(monkeypatch, FakeTensorRT(), tmp_path, shift=shift)
    result = run(tmp_path, variants=(), engine_batch_max=4)
    assert result.report["tensorrt"]["status"] == "failed"
    assert "differs from torch by" in result.report["tensorrt"]["reason"]
    assert set(result.files) == {"model.onnx"}


def test_an_engine_that_tensorrt_refuses_costs_only_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, FakeTensorRT(parse_errors=("no kernel for Conv",)), tmp_path)
    result = run(tmp_path, variants=(), engine_batch_max=4)
    assert result.report["tensorrt"]["status"] == "failed"
    assert "no kernel for Conv" in result.report["tensorrt"]["reason"]
    assert set(result.files) == {"model.onnx"}
    assert result.report["validation_accuracy"] == 1.0


def test_a_failed_conversion_costs_only_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path, **_: Any) -> None:
        raise KeyError("Einsum")

    with_engine(monkeypatch, FakeTensorRT(), tmp_path)
    monkeypatch.setattr(stage, "half_onnx", refuse)
    result = run(tmp_path, variants=())
    assert result.report["tensorrt"] == {"status": "failed", "reason": "KeyError: 'Einsum'"}
    assert set(result.files) == {"model.onnx"}


def gpu_of(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    """Let the GPU here have a compute capability; none for an empty one."""
    facts = {"gpu": "a stand-in", "compute_capability": capability} if capability else {}
    monkeypatch.setattr(engine_from_onnx, "gpu_facts", lambda: facts)


def test_an_engine_is_built_on_the_gpu_that_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, FakeTensorRT(), tmp_path)
    gpu_of(monkeypatch, "8.6")
    result = run(tmp_path, variants=(), engine_batch_max=4, engine_capability="8.6")
    assert result.report["tensorrt"]["status"] == "built"
    assert json.loads(result.files["model.plan.json"].read_text())["compute_capability"] == "8.6"


@pytest.mark.parametrize(("here", "said"), [("9.0", "the one here has 9.0"), ("", "the one here has none")])
def test_an_engine_for_another_gpu_is_skipped_and_the_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, said: str
) -> None:
    fake = FakeTensorRT()
    with_engine(monkeypatch, fake, tmp_path)
    gpu_of(monkeypatch, here)
    result = run(tmp_path, variants=(), engine_batch_max=4, engine_capability="8.6")
    assert result.report["tensorrt"]["status"] == "skipped"
    assert f"for GPUs of compute capability 8.6, {said}" in result.report["tensorrt"]["reason"]
    assert "export again on a machine with such a GPU" in result.report["tensorrt"]["reason"]
    assert set(result.files) == {"model.onnx"}
    assert fake.parsed == "", "TensorRT was not asked"


def test_an_engine_for_a_gpu_is_skipped_where_there_is_no_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise TensorRTMissing("TensorRT cannot be imported")

    monkeypatch.setattr(stage, "require_tensorrt", missing)
    result = run(tmp_path, variants=(), engine_capability="8.6")
    assert result.report["tensorrt"] == {"status": "skipped", "reason": "TensorRT cannot be imported"}
    assert set(result.files) == {"model.onnx"}


def test_a_driver_that_fails_costs_only_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("CUDA driver initialization failed")

    with_engine(monkeypatch, FakeTensorRT(), tmp_path)
    monkeypatch.setattr(engine_from_onnx, "gpu_facts", broken)
    result = run(tmp_path, variants=(), engine_capability="8.6")
    assert result.report["tensorrt"]["status"] == "failed"
    assert "CUDA driver initialization failed" in result.report["tensorrt"]["reason"]
    assert set(result.files) == {"model.onnx"}


def test_exports_for_several_kinds_of_gpu_are_entries_of_their_own() -> None:
    parents = {"model": Ref("prune-0000000000000000")}
    configs = [ExportConfig(engine_capability=name) for name in ("", "8.6", "9.0")]
    assert len({identity("export", config, parents, toy_task())[0] for config in configs}) == 3
    number = ExportConfig.from_json('{"engine_capability": 10.0}')
    assert number.as_json() == {"engine_capability": "10.0"}, "the command line reads a number"


@pytest.mark.parametrize("text", ["sm_86", "86", "8.6 ", "8,6", "8.60", "0.1", "8.6,9.0", "8.6\n"])
def test_what_is_no_compute_capability_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r'engine_capability=.*: must be written like "8\.6", or empty'):
        ExportConfig(engine_capability=text)


def test_progress_is_told_over_the_variants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    assert "quantize to INT8: 2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"rounds": 0}, "rounds=0: must be 1 or more"),
        ({"num_threads": 0}, "num_threads=0: must be 1 or more"),
        ({"calibration_images": 0}, "calibration_images=0: must be 1 or more"),
        ({"validation_images": -1}, "validation_images=-1: must be 0 or more"),
        ({"batches": (32, 0)}, r"batches=\(32, 0\): must be 1 or more each"),
        ({"int8_drop_max": 2}, r"int8_drop_max=2\.0: must be in \[0, 1\]"),
        ({"engine_batch_max": 0}, "engine_batch_max=0: must be 1 or more"),
        ({"opset": 17}, "opset=17: must be 18 or more"),
    ],
)
def test_mistakes_are_found_before_any_work(option: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ExportConfig(**option)


def test_mistakes_in_the_configuration() -> None:
    with pytest.raises(UnknownName, match="unsigned_per_tensor"):
        ExportConfig(variants=("unsigned_per_tenso",))
    with pytest.raises(ValueError, match="at least one batch size"):
        ExportConfig(batches=())
    assert ExportConfig().as_json() == {}
    assert ExportConfig.from_json('{"variants": [{"name": "signed_per_channel", "method": "entropy"}]}').as_json() == {
        "variants": [{"name": "signed_per_channel", "method": "entropy"}]
    }


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    other = InputSpec(shape=(1, 9, 9), mean=(0.5,), std=(0.25,), class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="takes"):
        run(tmp_path, task=replace(toy_task(), input=other))


def test_card() -> None:
    card = STAGES["export"]
    assert card.extra["config"] is ExportConfig
    assert card.extra["roles"] == ("model",)
    assert not card.extra.get("reads_test", False)
