from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress.measure.paired import PairedLatency, Ratio
from deploy.export.engine_choice import INT8, EngineCandidate, choose_engine, latency_report
from deploy.export.engine_from_onnx import EngineExport
from deploy.export.engine_manifest import gpu_conditions


def candidate(precision: str, accuracy: float) -> EngineCandidate:
    session: Any = None
    export = EngineExport(Path("model.plan"), 7, {})
    return EngineCandidate(precision=precision, export=export, session=session, validation_accuracy=accuracy)


@pytest.mark.parametrize(
    ("low", "accuracy", "kept", "said"),
    [
        (1.01, 0.90, INT8, "1.20x [1.01, 1.30] of the speed of FP16 and 90.00% accuracy"),
        (1.0, 0.90, "fp16", "not surely faster: FP16 is kept"),
        (0.7, 0.90, "fp16", "not surely faster: FP16 is kept"),
        (1.1, 0.89, INT8, "89.00% accuracy"),
        (1.1, 0.88, "fp16", "88.00% validation accuracy against 90.00% of fp32, and may lose 1 points: FP16 is kept"),
    ],
)
def test_int8_must_be_surely_faster_and_accurate(low: float, accuracy: float, kept: str, said: str) -> None:
    choice = choose_engine(
        candidate("fp16", 0.90), candidate(INT8, accuracy), speedup=Ratio(1.2, low, 1.3), accuracy=0.90, drop_max=0.01
    )
    assert choice.precision == kept
    assert said in choice.reason


def test_the_report_compares_with_the_rival() -> None:
    timed = PairedLatency({"onnxruntime": (8.0, 8.0), "fp16": (2.0, 2.0)})
    assert latency_report({4: timed}, "onnxruntime") == {
        "b4": {
            "median_ms": {"onnxruntime": 8.0, "fp16": 2.0},
            "speedup": {"fp16": {"value": 4.0, "low": 4.0, "high": 4.0}},
        }
    }


def test_clocks_and_power_limit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_conditions() == {}
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '1980 MHz, 2619 MHz, 700.00 W'\n")
    program.chmod(0o755)
    assert gpu_conditions() == {
        "gpu_conditions": {"clocks.sm": "1980 MHz", "clocks.mem": "2619 MHz", "power.limit": "700.00 W"}
    }
    program.write_text("#!/bin/sh\necho 'no devices were found'\n")
    assert gpu_conditions() == {}
