from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compress.measure.paired import PairedLatency, Ratio
from deploy.export import int8_choice
from deploy.export.int8_choice import Int8Bench, Int8Limits, Int8Variant, choose
from deploy.export.onnx_from_model import onnx_from_model
from deploy.export.quantized_onnx import INT8_VARIANTS
from tests.deploy.export.trained_toy import trained_toy
from tests.toys import toy_task

LIMITS = Int8Limits(fp32_accuracy=0.90, drop_max=0.01, batch=32)


def variant(name: str, accuracy: float, value: float, low: float | None = None) -> Int8Variant:
    ratio = Ratio(value, value - 0.05 if low is None else low, value + 0.05)
    return Int8Variant(
        name=name, path=Path(name), size_bytes=10, validation_accuracy=accuracy, speedups={32: ratio, 1: Ratio(9, 9, 9)}
    )


def test_the_fastest_that_keeps_the_accuracy_is_chosen() -> None:
    choice = choose([variant("slow", 0.90, 1.2), variant("fast", 0.89, 1.8), variant("wrong", 0.88, 3.0)], LIMITS)
    assert choice.status == "accepted"
    assert choice.chosen is not None
    assert choice.chosen.name == "fast"
    assert choice.reason == (
        "fast has 1.80x [1.75, 1.85] of the speed of fp32 at batch 32 and 89.00% validation accuracy against 90.00%."
    )


def test_an_int8_that_is_slower_is_refused_whatever_its_accuracy() -> None:
    choice = choose([variant("signed", 0.95, 0.8)], LIMITS)
    assert choice.status == "refused"
    assert choice.chosen is None
    assert choice.reason.startswith("INT8 is not faster than fp32 on this machine")
    assert "signed, has 0.80x [0.75, 0.85]" in choice.reason


@pytest.mark.parametrize(("low", "status"), [(1.0, "refused"), (1.001, "accepted")])
def test_the_lower_end_of_the_interval_decides(low: float, status: str) -> None:
    assert choose([variant("unsure", 0.9, 1.3, low)], LIMITS).status == status


def test_a_sure_variant_beats_a_faster_unsure_one() -> None:
    choice = choose([variant("unsure", 0.9, 1.5, 0.9), variant("sure", 0.9, 1.2)], LIMITS)
    assert choice.chosen is not None
    assert choice.chosen.name == "sure"


def test_noise_does_not_choose_between_equally_fast_variants() -> None:
    first, second, third = variant("a", 0.89, 1.80), variant("b", 0.90, 1.75), variant("c", 0.90, 1.78)
    for given, name in (((first, second, third), "b"), ((third, second, first), "c")):
        choice = choose(given, LIMITS)
        assert choice.chosen is not None
        assert choice.chosen.name == name


def test_an_int8_that_loses_accuracy_is_refused() -> None:
    choice = choose([variant("a", 0.5, 2.0), variant("b", 0.85, 2.0)], LIMITS)
    assert choice.status == "refused"
    assert choice.reason == (
        "no INT8 variant keeps the accuracy: the best, b, has 85.00% against 90.00% of fp32, and may lose 1 points."
    )


def test_nothing_tried_is_a_refusal() -> None:
    assert choose([], LIMITS).reason == "no INT8 variant was asked for."


def test_report_of_a_variant() -> None:
    assert variant("a", 0.9, 2.0, 1.5).as_json(32) == {
        "name": "a",
        "validation_accuracy": 0.9,
        "size_bytes": 10,
        "speedup_vs_fp32": {"value": 2.0, "low": 1.5, "high": 2.05},
        "speedup_by_batch": {
            "b32": {"value": 2.0, "low": 1.5, "high": 2.05},
            "b1": {"value": 9, "low": 9, "high": 9},
        },
    }


def test_bench_measures_every_piece_against_float_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], int, int]] = []

    def fake(sessions: Mapping[str, Any], x_BCHW: Any, *, rounds: int, warmup: int, seed: int) -> PairedLatency:
        seen.append((list(sessions), len(x_BCHW), rounds))
        times = {name: (4.0 if name == "fp32" else 2.0,) * rounds for name in sessions}
        return PairedLatency(times, seed)

    monkeypatch.setattr(int8_choice, "paired_sessions", fake)
    bench = Int8Bench(task=toy_task(), num_images=32, limit=None, batches=(32, 1), rounds=5, num_threads=1, seed=0)
    source = onnx_from_model(trained_toy(), tmp_path / "m.onnx").path
    pieces = [INT8_VARIANTS.bind("signed_per_channel"), INT8_VARIANTS.bind("unsigned_per_tensor", method="entropy")]
    found = bench.measure(source, pieces, tmp_path / "int8")
    names = ["signed_per_channel", "unsigned_per_tensor_entropy"]
    assert [item.name for item in found] == names
    assert seen == [(["fp32", *names], 32, 5), (["fp32", *names], 1, 5)]
    assert all(item.speedups[32] == Ratio(2.0, 2.0, 2.0) for item in found)
    assert all(item.size_bytes == item.path.stat().st_size for item in found)
    assert all(item.validation_accuracy >= 1.0 - 1 / 48 for item in found)
