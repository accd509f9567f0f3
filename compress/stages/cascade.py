"""Stage cascade: pair a small network with a large one, so that easy inputs cost little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compress.cascade.confidences import CONFIDENCES
from compress.cascade.curve import bounds_at, curve_of
from compress.cascade.inference import Router
from compress.cascade.targets import TARGETS
from compress.cascade.temperature import temperature_of
from compress.core.budget import Cost
from compress.core.registry import Piece
from compress.core.stage import STAGES, StageCall, StageConfig, StageResult, piece_field
from compress.measure.costs import cost_of
from compress.measure.runtimes import RUNTIMES, paired_sessions
from compress.train.checkpoint import state_digest
from compress.train.scoring import logits_of

FILE = "cascade.json"


@dataclass(frozen=True, kw_only=True)
class CascadeConfig(StageConfig):
    """How the small network's doubt is measured and where the line is drawn.

    Attributes:
        confidence: Score of an answer; higher = defer to the teacher.
        target: What the threshold is chosen for, on validation data.
        runtime: Where the members are timed.
        batch: Inputs at a time when timing.
        rounds: Samples of each member when timing.
        seed: Of the order in which the members are timed.
    """

    confidence: Piece[Any] = piece_field(CONFIDENCES, "entropy")
    target: Piece[Any] = piece_field(TARGETS, "accuracy")
    runtime: Piece[Any] = piece_field(RUNTIMES, "torch")
    batch: int = 1
    rounds: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be 1 or more.")


@STAGES.register("cascade", config=CascadeConfig, roles=("model", "teacher"), version=3)
def cascade(call: StageCall) -> StageResult:
    """Let the compressed model answer first and the teacher where it is unsure.

    Everything is chosen on validation data: a temperature for each member, then the threshold.
    Writes `cascade.json`, which `compress.cascade.inference.Router` reads.

    Args:
        call: Roles "model" (small, answers first) and "teacher" (large, answers what is deferred).
    """
    config, task = call.config, call.task
    small, large = call.model("model"), call.model("teacher")
    small_NC, labels_N = logits_of(small.module, task, "validation")
    large_NC, _ = logits_of(large.module, task, "validation")
    temperature = (temperature_of(small_NC, labels_N), temperature_of(large_NC, labels_N))
    costs = cost_of(small), cost_of(large)
    right_N = task.correct(small_NC, labels_N), task.correct(large_NC, labels_N)
    curve = curve_of(
        config.confidence(small_NC / temperature[0]),
        *right_N,
        small_macs=_macs(costs[0]),
        large_macs=_macs(costs[1]),
    )
    index = config.target(curve)
    chosen, expected_macs = curve.point(index), float(curve.macs_T[index])
    router = Router(
        small=call.parents["model"].ref,
        large=call.parents["teacher"].ref,
        digests=(state_digest(small.module), state_digest(large.module)),
        confidence=config.confidence,
        threshold=chosen["threshold"],
        temperature=temperature,
    )
    router.write(call.scratch / FILE)
    report = {
        "cost": _summed(costs, expected_macs).as_json(),
        "validation_accuracy": chosen["accuracy"],
        "small_accuracy": curve.small_accuracy,
        "teacher_accuracy": curve.large_accuracy,
        "confidence": config.confidence.as_json(),
        "target": config.target.as_json(),
        "threshold": chosen["threshold"],
        "temperature": list(temperature),
        "route_shares": [1 - chosen["deferred"], chosen["deferred"]],
        "expected_macs": expected_macs,
        "expected_macs_ratio": chosen["expected_macs_ratio"],
        "bounds": bounds_at(chosen["deferred"], *right_N),
        "curve": curve.as_json(),
        **_expected_latency(call, chosen["deferred"]),
        **_note(chosen["expected_macs_ratio"]),
    }
    return StageResult(report=report, files={FILE: call.scratch / FILE})


def _note(expected_macs_ratio: float) -> dict[str, str]:
    """Return a warning for a pair that saves nothing, else nothing."""
    if expected_macs_ratio < 1:
        return {}
    return {
        "note": f"the cascade needs {expected_macs_ratio:.2f} times the teacher's multiply-adds, so the teacher alone "
        f"is cheaper: give the target more tolerance, use target 'cost', or pair a better small model."
    }


def _macs(cost: Cost) -> float:
    assert cost.macs is not None
    return cost.macs


def _summed(costs: tuple[Cost, Cost], expected_macs: float) -> Cost:
    """Return what the pair costs: both are stored, but the large one runs only at times."""
    small, large = costs
    return Cost(
        params=(small.params or 0) + (large.params or 0),
        macs=expected_macs,
        size_bytes=(small.size_bytes or 0) + (large.size_bytes or 0),
    )


def _expected_latency(call: StageCall, deferred: float) -> dict[str, Any]:
    """Time both members in turns, and weigh the large one by how often it is asked."""
    config = call.config
    x_BCHW = call.model("model").input.example(config.batch).numpy()
    with config.runtime(call.parents["model"]) as small, config.runtime(call.parents["teacher"]) as large:
        times = paired_sessions({"small": small, "large": large}, x_BCHW, rounds=config.rounds, seed=config.seed)
    ratio = times.ratio("small", "large")
    return {
        "latency": {"runtime": config.runtime.as_json(), "batch": config.batch, "median_ms": times.median_ms},
        "expected_latency_ms": times.median_ms["small"] + deferred * times.median_ms["large"],
        "expected_latency_ratio": {
            "value": ratio.value + deferred,
            "low": ratio.low + deferred,
            "high": ratio.high + deferred,
        },
    }
