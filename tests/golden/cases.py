"""One short, fixed run for every stage and piece; the figures it gives are kept in baselines.json."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress import catalogue
from compress.core.registry import FAMILIES
from compress.core.stage import STAGES, Entry, StageCall, StageResult
from tests import toys
from tests.compress.data.tiny_sets import MAKERS

catalogue.load()

Numbers = dict[str, float]
FIT = {"max_steps": 20, "batch_size": 16, "seed": 3}
SMALL = {"shape": (3, 32, 32), "num_classes": 10}

#: Family -> (stage, field, rest of the configuration): its pieces run inside a stage.
IN_STAGE: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "recipe": ("train", "recipe", {}),
    "criterion": ("prune", "criterion", {}),
    "normalizer": ("prune", "normalizer", {}),
    "allocator": ("prune", "allocator", {}),
    "schedule": ("prune", "schedule", {}),
    "compensation": ("prune", "compensation", {"allocator": "uniform"}),
    "space": ("search", "space", {}),
    "strategy": ("search", "strategy", {}),
    "loss": ("distill", "loss", {}),
    "objective": ("finetune_quant", "objective", {}),
    "confidence": ("cascade", "confidence", {}),
    "target": ("cascade", "target", {}),
    "rule": ("gate", "accuracy_rule", {}),
}
BASE: Mapping[str, Mapping[str, Any]] = {
    "train": {"builder": "toy", **FIT},
    "search": {"budget": "macs=0.7", "num_trials": 6},
    "prune": {"budget": "macs=0.5", **FIT},
    "sensitivity": {"ratios": [0.5], "batch_size": 16},
    "distill": FIT,
    "finetune_quant": FIT,
    "export": {"rounds": 3, "variants": ["unsigned_per_tensor"]},
    "cascade": {"rounds": 3, "target": {"name": "cost", "macs_ratio": 1.5}},
    "evaluate": {"rounds": 3, "runtimes": ["torch"]},
    "gate": {},
}
#: Numbers of a report that depend on the clock.
TIMED = ("latency", "speedup", "seconds", "_ms")


def names() -> list[str]:
    """Return every case: "<family>/<piece>", stages included."""
    kinds = [family for family in FAMILIES.values() if family.name not in ("knob", "proof")]
    found = [f"{family.name}/{name}" for family in kinds for name in family]
    return sorted(name for name in found if name.split("/")[1] not in ("toy", "proof", "echo", "echo_test"))


#: Pieces whose defaults do not suit the toys: both networks of a cascade cost the same, and widths are small.
FITTED: Mapping[str, Mapping[str, Any]] = {
    "target/cost": {"name": "cost", "macs_ratio": 1.5},
    "allocator/latency_knapsack": {"name": "latency_knapsack", "round_to": 2},
    "allocator/measured_greedy": {"name": "measured_greedy", "round_to": 2},
}
#: Pieces that act in another stage than the rest of their family: what is named as "sparsity" in front of a cut.
SPARSE = {"sparsity_share": 0.5}
ELSEWHERE: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    f"objective/{name}": ("prune", "sparsity", SPARSE)
    for name in FAMILIES["objective"]
    if "groups" in FAMILIES["objective"][name].needs
}


def run(case: str) -> Numbers:
    """Return the figures of one case."""
    family, _, name = case.partition("/")
    with tempfile.TemporaryDirectory() as folder:
        if case in ELSEWHERE or family in IN_STAGE:
            stage, field, more = ELSEWHERE.get(case) or IN_STAGE[family]
            return _stage(stage, {field: FITTED.get(case, name), **more}, Path(folder))
        return OTHERS[family](name, Path(folder))


def _stage(stage: str, config: Mapping[str, Any], folder: Path) -> Numbers:
    result = _result(stage, config, folder)
    numbers = _numbers(result.report)
    if result.model is not None:
        numbers["weights_norm"] = float(sum(value.detach().norm() for value in result.model.module.parameters()))
    return numbers


def _result(stage: str, config: Mapping[str, Any], folder: Path) -> StageResult:
    card = STAGES[stage]
    roles = (*card.extra["roles"], *(role for role in card.extra.get("optional_roles", ()) if role == "teacher"))
    parents = {role: _parent(role, folder) for role in roles}
    task = toys.toy_task().opened() if card.extra.get("reads_test") else toys.toy_task()
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    full = card.extra["config"].from_json({**BASE[stage], **config})
    return card.function(StageCall(config=full, parents=parents, scratch=scratch, optional_task=task))


def _parent(role: str, folder: Path) -> Entry:
    if role == "teacher":
        return toys.toy_entry(toys.toy_model(7))
    if role != "evaluation":
        return toys.toy_entry(toys.toy_model(0))
    below = folder / "evaluation"
    below.mkdir()
    judged = _result("evaluate", {}, below)
    speedup = {"value": 2.0, "low": 1.9, "high": 2.1}
    ratios = {**judged.report["ratios"], "student": {"latency/onnxruntime/b32": speedup}}
    return Entry(ref="evaluate-0", report={**judged.report, "ratios": ratios}, files=judged.files)


def _numbers(report: Mapping[str, Any], prefix: str = "") -> Numbers:
    found: Numbers = {}
    for key, value in report.items():
        if any(word in key for word in TIMED):
            continue
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = float(value)
    return found


def _task(name: str, folder: Path) -> Numbers:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(folder / "cache"))
        task = FAMILIES["task"].bind(name, **MAKERS[name](folder / "data"))()
        x_BCHW, y_B = next(iter(task.batches("train", batch_size=8)))
        return {"mean": float(x_BCHW.mean()), "labels": float(y_B.sum()), "num_train": len(task.split("train"))}


def _builder(name: str, folder: Path) -> Numbers:
    options = {"torchvision": {"arch": "resnet18"}, "timm": {"arch": "resnet10t"}}.get(name, {})
    with pytest.MonkeyPatch.context() as patch:
        if name == "import_path":
            patch.setenv("SECATEUR_ALLOW_IMPORT", "1")
            options = {"path": "tests.toys:toy_net"}
        module = FAMILIES["builder"].bind(name, **options)(SMALL["shape"], SMALL["num_classes"])
    for value in module.parameters():
        torch.nn.init.constant_(value, 0.01)
    logits_BC = module.eval()(torch.ones(2, *SMALL["shape"]))
    return {"params": sum(value.numel() for value in module.parameters()), "logit": float(logits_BC.detach().mean())}


def _measure(name: str, folder: Path) -> Numbers:
    value = FAMILIES["measure"].bind(name)(toys.toy_model().module, toys.TOY_INPUT.example(1))
    return {"is_positive": float(value > 0)} if "latency" in name else {name: float(value)}


def _runtime(name: str, folder: Path) -> Numbers:
    x_BCHW = toys.TOY_INPUT.example(4).numpy()
    if missing := {"tensorrt": r"TensorRT|model\.plan", "aotinductor": r"model\.pt2"}.get(name):
        with pytest.raises(ValueError, match=missing), FAMILIES["runtime"].bind(name)(toys.toy_entry()):
            raise AssertionError("a file ran where there is none")
        return {"is_missing": 1.0}
    with FAMILIES["runtime"].bind(name)(toys.toy_entry()) as session:
        return {"logits": float(np.abs(session.infer(x_BCHW)).mean())}


def _int8(name: str, folder: Path) -> Numbers:
    from deploy.export.onnx_from_model import onnx_from_model
    from deploy.export.quantized_onnx import calibration_batches
    from deploy.runtime.onnxruntime import session_from_bytes

    source, target = folder / "model.onnx", folder / "int8.onnx"
    onnx_from_model(toys.toy_model(), source)
    batches = calibration_batches(toys.toy_task(), num_images=64)
    FAMILIES["int8_variant"].bind(name)(source, target, batches)
    x_BCHW = toys.TOY_INPUT.example(16).numpy()
    session = session_from_bytes(target.read_bytes())
    return {"logits": float(np.abs(session.run(None, {"input": x_BCHW})[0]).mean())}


def _plan(name: str, folder: Path) -> Numbers:
    layers = {"conv2": {"out": [0, 3]}, "bn2": {"out": [0, 3]}, "linear": {"in": [0, 3]}}
    plan: dict[str, Any] = {"kind": name, "dropped": ["block"], "layers": layers}
    if name == "convert":
        plan = {"kind": name, "layers": {"block.conv1": {"to": "low_rank", "rank": 2}}}
    module = FAMILIES["plan"].bind(name)(toys.toy_model().module, plan)
    return {"params": sum(value.numel() for value in module.parameters())}


def _conversion(name: str, folder: Path) -> Numbers:
    """Convert everything, unmeasured: which layers get faster differs from machine to machine."""
    from compress.prune.converting import convert

    model, report = convert(toys.toy_model(), FAMILIES["conversion"].bind(name), referee=None)
    logits_BC = model(toys.TOY_INPUT.example(4))
    return {"num_converted": report["num_converted"], "logits": float(logits_BC.abs().mean())}


def _fetcher(name: str, folder: Path) -> Numbers:
    source = folder / "source.txt"
    source.write_text("seven")
    if name == "file":
        return {"bytes": FAMILIES["fetcher"].bind(name)(source.as_uri(), folder / "cache").stat().st_size}
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "a")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "b")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            client = boto3.client("s3")
            client.create_bucket(Bucket="golden")
            client.upload_file(str(source), "golden", "source.txt")
            found = FAMILIES["fetcher"].bind(name)("s3://golden/source.txt", folder / "cache")
            return {"bytes": found.stat().st_size}
    finally:
        server.stop()


OTHERS: Mapping[str, Callable[[str, Path], Numbers]] = {
    "stage": lambda name, folder: _stage(name, {}, folder),
    "task": _task,
    "builder": _builder,
    "measure": _measure,
    "runtime": _runtime,
    "int8_variant": _int8,
    "plan": _plan,
    "fetcher": _fetcher,
    "conversion": _conversion,
}
