"""Stage gate: may the compressed model take the large one's place? A verdict with reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.core.registry import Piece
from compress.core.stage import STAGES, StageCall, StageConfig, StageResult, piece_field
from compress.measure.significance import RULES

PREDICTIONS = "predictions.npz"


@dataclass(frozen=True, kw_only=True)
class GateConfig(StageConfig):
    """What a model must keep and gain.

    Attributes:
        accuracy_drop_max: Largest loss of test accuracy against the teacher, 0..1.
        accuracy_rule: What of the loss is held against a limit: `point` takes the measured loss, `lower_bound`
            the loss that paired bootstrap samples do not exceed in 95 % of cases. Its interval is told in any case.
        speedup_min: Smallest paired speed-up over the teacher; the interval's lower end must reach it.
        speedup_runtime: Where the speed-up counts: runtime/bBATCH.
        parity_max: Largest difference of a logit between torch and any other runtime.
        int8_drop_max: Largest loss of the INT8 file against the student; above it INT8 is demoted.
        cascade_drop_max: Largest loss of the cascade against the teacher; above it the cascade is demoted.
    """

    accuracy_drop_max: float = 0.01
    accuracy_rule: Piece[Any] = piece_field(RULES, "point")
    speedup_min: float = 1.5
    speedup_runtime: str = "onnxruntime/b32"
    parity_max: float = 1e-3
    int8_drop_max: float = 0.01
    cascade_drop_max: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("accuracy_drop_max", "int8_drop_max", "cascade_drop_max"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be in [0, 1]; 0.01 is one point.")
        for name in ("speedup_min", "parity_max"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be 0 or more.")
        if not re.fullmatch(r"[^/]+/b[1-9][0-9]*", self.speedup_runtime):
            raise ValueError(
                f"speedup_runtime={self.speedup_runtime!r}: must be RUNTIME/bBATCH, for example onnxruntime/b32."
            )


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of the gate and its answer.

    Attributes:
        name: What was asked ("speedup").
        value: What was found; None when it was not measured.
        limit: What was allowed.
        is_passed: Whether the value keeps the limit.
        reason: The answer as a sentence.
        interval: 95 % interval of the value, where there is one.
        is_binding: Whether failing it closes the gate; otherwise the artifact it asks about is demoted.
    """

    name: str
    value: float | None
    limit: float
    is_passed: bool
    reason: str
    interval: tuple[float, float] | None = None
    is_binding: bool = True

    def as_json(self) -> dict[str, Any]:
        """JSON of the report's `checks`."""
        return {
            "name": self.name,
            "value": self.value,
            "limit": self.limit,
            "passed": self.is_passed,
            "interval": list(self.interval) if self.interval else None,
            "binding": self.is_binding,
        }


@STAGES.register("gate", config=GateConfig, roles=("evaluation",), version=3)
def gate(call: StageCall) -> StageResult:
    """Hold the evaluation against accuracy, speed and parity limits.

    Accuracy: the loss on the same test inputs and its 95 % interval by paired bootstrap. Rule `point` holds
    the measured loss against the limit, rule `lower_bound` the unfavourable end: the 95 % quantile of the
    bootstrap's losses. Speed: the lower end of the paired speed-up's 95 % interval.

    A failed gate is a result, not an error: the report says `passed: false` and why. INT8 and cascade
    are extras: when they lose too much, or the cascade is no cheaper or faster than the teacher, they are demoted,
    and the gate stays as the student left it.

    Args:
        call: Role "evaluation": an entry of stage `evaluate`.
    """
    config, evaluation = call.config, call.parents["evaluation"]
    correct_N, ratios = read_correct(evaluation.files[PREDICTIONS]), evaluation.report["ratios"]
    checks = [
        accuracy_check(
            "accuracy_drop", correct_N["teacher"], correct_N["student"], config.accuracy_drop_max, config.accuracy_rule
        ),
        speedup_check(ratios["student"], config.speedup_runtime, config.speedup_min),
        parity_check(evaluation.report["parity"], config.parity_max),
    ]
    extras = {"int8": ("student", config.int8_drop_max), "cascade": ("teacher", config.cascade_drop_max)}
    status = {}
    for name, (reference, limit) in extras.items():
        if name not in correct_N:
            status[name] = "absent"
            continue
        pair = correct_N[reference], correct_N[name]
        check = accuracy_check(
            f"{name}_drop", *pair, limit, config.accuracy_rule, names=(reference, name), is_binding=False
        )
        checks.append(check)
        status[name] = "accepted" if check.is_passed else "demoted"
    if "cascade" in correct_N:
        found = [
            cost_check(ratios["cascade"]["macs"]),
            speedup_check(ratios["cascade"], config.speedup_runtime, 1.0, artifact="cascade"),
        ]
        checks += found
        if not all(check.is_passed for check in found):
            status["cascade"] = "demoted"
    is_passed = all(check.is_passed for check in checks if check.is_binding)
    report = {
        "passed": is_passed,
        "reasons": [check.reason for check in checks],
        "checks": [check.as_json() for check in checks],
        **status,
    }
    return StageResult(report=report)


def read_correct(path: Path) -> dict[str, Tensor]:
    """Return by artifact the flags (N,) that `evaluate` wrote: 1 where the answer was right."""
    with np.load(path, allow_pickle=False) as arrays:
        prefix = "correct_"
        return {
            key.removeprefix(prefix): torch.from_numpy(arrays[key].astype(np.float64))
            for key in arrays.files
            if key.startswith(prefix)
        }


def accuracy_check(
    name: str,
    reference_correct_N: Tensor,
    correct_N: Tensor,
    limit: float,
    rule: Piece[Any],
    *,
    names: tuple[str, str] = ("teacher", "student"),
    is_binding: bool = True,
) -> Check:
    """Ask whether an artifact lost at most `limit` of accuracy against a reference, on the same inputs.

    Args:
        name: Of the check.
        reference_correct_N: 1 where the reference is right (N,).
        correct_N: 1 where the artifact is right (N,).
        limit: Largest loss, 0..1.
        rule: Piece of RULES.
        names: Of the reference and of the artifact, for the sentence.
        is_binding: Whether failing closes the gate.
    """
    drop = rule(reference_correct_N, correct_N)
    # 1e-9 keeps a drop of exactly the limit from failing by a rounding error.
    is_passed = drop.judged <= limit + 1e-9
    compared = f"{100 * float(reference_correct_N.mean()):.2f} % to {100 * float(correct_N.mean()):.2f} %"
    reason = (
        f"Test accuracy goes from {compared} ({names[0]} to {names[1]}): {100 * drop.point:+.2f} points lost, "
        f"95 % interval {100 * drop.low:+.2f} to {100 * drop.high:+.2f} on {len(correct_N)} inputs; "
        f"by rule {rule.name!r} {100 * drop.judged:.2f} {_against(is_passed, 'at most')} {100 * limit:.2f}"
    )
    if not is_passed and not is_binding:
        reason += f", so {names[1]} is demoted"
    return Check(
        name=name,
        value=drop.judged,
        limit=limit,
        is_passed=is_passed,
        reason=f"{reason}.",
        interval=(drop.low, drop.high),
        is_binding=is_binding,
    )


def speedup_check(ratios: Mapping[str, Any], runtime: str, limit: float, *, artifact: str = "student") -> Check:
    """Ask whether an artifact is faster by `limit` even at the lower end of the paired interval.

    Args:
        ratios: Of the teacher's cost to the artifact's, as `evaluate` reports them.
        runtime: Where it counts: runtime/bBATCH.
        limit: Smallest speed-up.
        artifact: "student", for which the check closes the gate, or an extra, which is demoted.
    """
    key, is_binding = f"latency/{runtime}", artifact == "student"
    name = "speedup" if is_binding else f"{artifact}_speedup"
    demoted = "" if is_binding else f", so {artifact} is demoted"
    if key not in ratios:
        known = sorted(name.removeprefix("latency/") for name in ratios if name.startswith("latency/"))
        reason = (
            f"The {artifact}'s speed-up in {runtime} was not measured, so it cannot be granted{demoted}; measured: "
            f"{', '.join(known) or 'none'}. Set speedup_runtime to one of these, or measure it in `evaluate`."
        )
        return Check(name=name, value=None, limit=limit, is_passed=False, reason=reason, is_binding=is_binding)
    ratio = ratios[key]
    is_passed = ratio["low"] >= limit
    reason = (
        f"In {runtime} the {artifact} is {ratio['value']:.2f} times as fast as the teacher, 95 % interval "
        f"{ratio['low']:.2f} to {ratio['high']:.2f}; the lower end {_against(is_passed, 'at least')} {limit:.2f}"
        f"{'' if is_passed else demoted}."
    )
    return Check(
        name=name,
        value=ratio["value"],
        limit=limit,
        is_passed=is_passed,
        reason=reason,
        interval=(ratio["low"], ratio["high"]),
        is_binding=is_binding,
    )


def cost_check(macs_ratio: float) -> Check:
    """Ask whether the cascade is expected to need fewer multiply-adds than the teacher alone.

    Args:
        macs_ratio: Multiply-adds of the teacher over those of the cascade, on the routes of the test split.
    """
    is_passed = macs_ratio > 1
    reason = (
        f"The cascade is expected to need {1 / macs_ratio:.2f} times the teacher's multiply-adds; it "
        f"{_against(is_passed, 'less than')} 1{'' if is_passed else ', so cascade is demoted'}."
    )
    share = 1 / macs_ratio
    return Check(name="cascade_cost", value=share, limit=1.0, is_passed=is_passed, reason=reason, is_binding=False)


def parity_check(parity: Mapping[str, Any], limit: float) -> Check:
    """Ask whether every runtime answers as torch does."""
    is_passed = parity["max_abs"] <= limit
    reason = (
        f"The largest difference of a logit between torch and the other runtimes is {parity['max_abs']:.2e} "
        f"({100 * parity['top1_agree']:.1f} % equal answers); it {_against(is_passed, 'at most')} {limit:.0e}."
    )
    return Check(name="parity", value=parity["max_abs"], limit=limit, is_passed=is_passed, reason=reason)


def _against(is_passed: bool, bound: str) -> str:
    return f"keeps the limit of {bound}" if is_passed else f"breaks the limit of {bound}"
