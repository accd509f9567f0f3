"""Records of a made-up run with the structure of real ones, for the report page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TASK = {"piece": {"name": "digits"}, "digest": "3f5a" * 16}
TEACHER = {"params": 272_474.0, "macs": 40_551_000.0, "size_bytes": 1_101_000.0}
MACHINE = {"cpu": "Example CPU @ 2.0GHz", "cores": 2, "instructions": "AVX2", "gpu": "none", "system": "Linux x86_64"}
VERSIONS = {"python": "3.11.9", "torch": "2.9.0", "onnxruntime": "1.22.0", "secateur": "0.1.0"}


class Records:
    """As much of a ModelStore as `gather` needs."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    def add(self, ref: str, config: Mapping[str, Any], parents: Mapping[str, str], report: Mapping[str, Any]) -> str:
        """Keep one record; the stage is what stands before the last dash."""
        stage = ref.rpartition("-")[0]
        identity = {"stage": stage, "version": 1, "config": dict(config), "parents": dict(parents), "task": TASK}
        self.kept[ref] = {
            "ref": ref,
            "identity": identity,
            "report": dict(report),
            "created": f"2026-11-22T12:{len(self.kept) % 60:02d}:00+00:00",
            "seconds": 3.5 + 7 * len(self.kept),
            "versions": VERSIONS,
            "machine": MACHINE,
            "files": {},
        }
        return ref

    def record(self, ref: str) -> dict[str, Any]:
        """Return one record."""
        return self.kept[ref]


def sample(budgets: tuple[float, ...] = (0.24,), *, is_passed: bool = True) -> tuple[Records, dict[str, list[str]]]:
    """Return records and refs of a run with a teacher and one branch a budget."""
    store = Records()
    refs: dict[str, list[str]] = {"train": [store.add("train-00", {}, {}, _report(0.991, TEACHER))]}
    for index, budget in enumerate(budgets):
        for stage, ref in _branch(store, index, budget, is_passed).items():
            refs.setdefault(stage, []).append(ref)
    return store, refs


def _branch(store: Records, index: int, budget: float, is_passed: bool) -> dict[str, str]:
    cost = {key: value * budget * (1 if key == "macs" else 1.1) for key, value in TEACHER.items()}
    part = 0.9865 - 0.003 * (1 / budget - 4)
    last, refs = "train-00", {}
    config = {"budget": f"macs={budget:g}"}
    made = {
        "search": (config, {"reference": "train-00"}, _search(cost, part)),
        "prune": ({**config, "criterion": {"name": "taylor"}}, {"reference": "train-00"}, _prune(cost, part)),
        "distill": ({}, {"teacher": "train-00"}, _report(part + 0.004, cost)),
        "finetune_quant": ({"objective": {"name": "kurtosis", "target": 1.8}}, {}, _report(part + 0.0035, cost)),
        "export": ({}, {}, _export(cost, part)),
    }
    for stage, (config, more, report) in made.items():
        last = store.add(f"{stage}-{index}a", config, {"model": last, **more}, report)
        refs[stage] = last
    parents = {"model": refs["finetune_quant"], "teacher": "train-00"}
    refs["cascade"] = store.add(f"cascade-{index}a", {}, parents, _cascade(budget, part))
    parents = {"model": refs["export"], "teacher": "train-00", "cascade": refs["cascade"]}
    refs["evaluate"] = store.add(f"evaluate-{index}a", {}, parents, evaluation(cost, budget, part))
    refs["gate"] = store.add(f"gate-{index}a", {}, {"evaluation": refs["evaluate"]}, _gate(is_passed, budget))
    return refs


def _report(part: float, cost: Mapping[str, float]) -> dict[str, Any]:
    return {"validation_accuracy": part, "cost": dict(cost)}


def _kept(keep: float) -> dict[str, list[int]]:
    groups = {"conv1": 16} | {f"layers.{s}.{b}.conv1": 16 * 2**s for s in range(3) for b in range(3)}
    return {
        name: [min(n, max(2, round(n * keep * (1 + 0.4 * math.sin(i))))), n]
        for i, (name, n) in enumerate(groups.items())
    }


def _search(cost: Mapping[str, float], part: float) -> dict[str, Any]:
    trials = []
    for number in range(40):
        macs = TEACHER["macs"] * (0.15 + 0.02 * number)
        value = part - 0.06 / (1 + 0.2 * number) + 0.006 * math.sin(5 * number)
        is_feasible = macs <= cost["macs"] * 1.5
        trials.append({"number": number, "value": value, "cost": {"macs": macs}, "is_feasible": is_feasible})
    report = _report(part - 0.02, {key: 1.5 * value for key, value in cost.items()})
    return {
        **report,
        "trials": trials,
        "best_trial": 9,
        "pareto": [3, 9],
        "kept": _kept(0.75),
        "dropped": ["layers.1.2"],
    }


def _prune(cost: Mapping[str, float], part: float) -> dict[str, Any]:
    steps = {"accuracy_cut": 0.41, "accuracy_recalibrated": 0.87, "accuracy_tuned": part}
    return {**_report(part, cost), **steps, "kept": _kept(0.55), "dropped": []}


def _export(cost: Mapping[str, float], part: float) -> dict[str, Any]:
    variants = [
        {"name": "signed", "validation_accuracy": part + 0.003, "size_bytes": 92_000, "reason": "slower than fp32",
         "speedup_vs_fp32": {"value": 0.81, "low": 0.79, "high": 0.84}},
        {"name": "unsigned, kurtosis", "validation_accuracy": part + 0.001, "size_bytes": 91_500,
         "speedup_vs_fp32": {"value": 1.62, "low": 1.55, "high": 1.7}},
    ]  # fmt: skip
    return {
        **_report(part + 0.0035, cost),
        "onnx": {"size_bytes": cost["size_bytes"] * 1.04, "parity_max_abs": 2.1e-6, "opset": 18},
        "int8": {"status": "accepted", "reason": "", "variants": variants, "chosen": "unsigned, kurtosis"},
        "tensorrt": {"status": "skipped", "reason": "no NVIDIA GPU on this machine"},
    }


def _cascade(budget: float, part: float) -> dict[str, Any]:
    curve = [
        {"threshold": round(0.05 * i, 2), "deferred": (1 - i / 20) ** 2, "accuracy": part + 0.006 * (1 - i / 20) ** 0.5,
         "expected_macs_ratio": budget + (1 - i / 20) ** 2}
        for i in range(21)
    ]  # fmt: skip
    chosen = curve[12]
    return {
        "threshold": chosen["threshold"],
        "route_shares": [1 - chosen["deferred"], chosen["deferred"]],
        "expected_macs": TEACHER["macs"] * chosen["expected_macs_ratio"],
        "expected_macs_ratio": chosen["expected_macs_ratio"],
        "validation_accuracy": chosen["accuracy"],
        "teacher_accuracy": 0.991,
        "curve": curve,
    }


def evaluation(cost: Mapping[str, float], budget: float, part: float) -> dict[str, Any]:
    """Return a report of `evaluate` with all four models."""
    speed = 0.6 + 0.3 / budget

    def model(accuracy: float, faster: float, cost: Mapping[str, float]) -> dict[str, Any]:
        latency = {"onnxruntime/b1": 0.61 / faster**0.7, "onnxruntime/b32": 11.4 / faster,
                   "torch/b1": 2.9 / faster**0.3, "torch/b32": 31 / faster**0.6}  # fmt: skip
        interval = [accuracy - 0.008, min(1.0, accuracy + 0.006)]
        return {"test_accuracy": accuracy, "interval": interval, "validation_accuracy": accuracy + 0.002,
                "latency_ms": latency, **cost}  # fmt: skip

    def against(faster: float, less: float) -> dict[str, Any]:
        powers = {"latency/onnxruntime/b1": 0.7, "latency/onnxruntime/b32": 1, "latency/torch/b1": 0.3}
        speeds = {key: faster**power for key, power in powers.items()}
        timed = {key: {"value": speed, "low": speed - 0.05, "high": speed + 0.06} for key, speed in speeds.items()}
        return {"macs": less, "params": less * 0.9, "size_bytes": less * 0.9, **timed}

    small = {**cost, "size_bytes": cost["size_bytes"] * 0.3}
    both = {**TEACHER, "macs": TEACHER["macs"] * (budget + 0.16)}
    return {
        "num_validation": 360,
        "notes": ["runtime 'tensorrt' is not installed, so nothing was measured in it."],
        "models": {
            "teacher": model(0.9885, 1.0, TEACHER),
            "student": model(part, speed, cost),
            "int8": model(part - 0.002, speed * 1.6, small),
            "cascade": model(0.9875, speed * 0.75, both),
        },
        "ratios": {
            "student": against(speed, 1 / budget),
            "int8": against(speed * 1.6, 1 / budget),
            "cascade": against(speed * 0.75, 1 / (budget + 0.16)),
        },
        "parity": {"max_abs": 3.2e-6, "top1_agree": 1.0},
    }


def _gate(is_passed: bool, budget: float) -> dict[str, Any]:
    checks = [
        {"name": "accuracy_drop", "value": 0.004, "limit": 0.01, "passed": True, "interval": [-0.002, 0.009]},
        {"name": "speedup", "value": 0.6 + 0.3 / budget, "limit": 1.5, "passed": is_passed,
         "interval": [0.55 + 0.3 / budget, 0.65 + 0.3 / budget]},
        {"name": "parity", "value": 3.2e-6, "limit": 1e-3, "passed": True, "interval": None},
        {"name": "int8_drop", "value": 0.014, "limit": 0.01, "passed": False, "interval": [0.0, 0.02],
         "binding": False},
    ]  # fmt: skip
    keeps = "keeps" if is_passed else "breaks"
    reasons = [
        "Test accuracy goes from 98.85 % to 98.60 % (teacher to student): +0.25 points lost; keeps the limit.",
        f"In onnxruntime/b32 the student is faster than the teacher; the lower end {keeps} the limit of at least 1.50.",
        "The largest difference of a logit between torch and the other runtimes keeps the limit of at most 1e-03.",
        "INT8 lost 1.4 points, so int8 is demoted.",
    ]
    return {"passed": is_passed, "reasons": reasons, "checks": checks, "int8": "demoted", "cascade": "accepted"}
