from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compress.core.registry import UnknownName
from compress.core.stage import STAGES, StageCall, StageResult
from compress.core.task import InputSpec, Task
from compress.measure import cost_of
from compress.measure.paired import PairedLatency
from deploy.export import int8_choice
from deploy.runtime.onnxruntime import OnnxSession
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


def test_an_engine_is_built_where_tensorrt_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT()
    monkeypatch.setattr(stage, "require_tensorrt", lambda: fake)
    result = run(tmp_path, variants=(), engine_batch_max=4)
    assert result.report["tensorrt"]["status"] == "built"
    assert result.report["tensorrt"]["size_bytes"] == 7
    assert result.files["model.plan"].read_bytes() == b"ENGINE!"
    assert json.loads(result.files["model.plan.json"].read_text())["settings"]["max_batch"] == 4
    assert fake.parsed.endswith("model.fp16.onnx")
    assert fake.config.profiles[0].shapes["input"][1][0] == 4


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
