"""A small run of real entries in a local store: teacher, student, export, cascade, evaluation, gate."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress.cascade.confidences import CONFIDENCES
from compress.cascade.inference import Router
from compress.core.model import Model
from compress.core.stage import Ref, StageResult, ref_of
from compress.store import LocalStore, ModelStore
from compress.train.checkpoint import state_digest
from deploy.export.onnx_from_model import onnx_from_model
from deploy.package import build_package
from tests.toys import toy_model, toy_task

TASK = {"piece": {"name": "toy"}, "digest": "toy-0"}


def put(
    store: ModelStore,
    stage: str,
    parents: Mapping[str, str],
    report: Mapping[str, Any],
    *,
    model: Model | None = None,
    files: Mapping[str, Path] | None = None,
    config: Mapping[str, Any] | None = None,
    task: Mapping[str, Any] = TASK,
) -> Ref:
    """Store one entry under the name that its identity gives it."""
    record = {"stage": stage, "version": 1, "config": dict(config or {}), "parents": dict(parents), "task": dict(task)}
    ref = ref_of(record)
    store.scratch(ref)
    store.put(ref, record, StageResult(report=report, model=model, files=dict(files or {})), 1.5)
    return ref


def evaluation_report() -> dict[str, Any]:
    """Return a report of `evaluate` with teacher, student and cascade."""

    def model(accuracy: float, ms: float, macs: float) -> dict[str, Any]:
        interval = [accuracy - 0.01, accuracy + 0.01]
        latency = {"onnxruntime/b1": ms / 20, "onnxruntime/b32": ms}
        return {"test_accuracy": accuracy, "interval": interval, "validation_accuracy": accuracy, "macs": macs,
                "params": macs / 10, "size_bytes": macs / 2, "latency_ms": latency}  # fmt: skip

    speed = {"value": 2.0, "low": 1.9, "high": 2.1}
    return {
        "models": {"teacher": model(0.95, 4.0, 8e6), "student": model(0.94, 2.0, 2e6)},
        "ratios": {"student": {"macs": 4.0, "params": 4.0, "size_bytes": 4.0, "latency/onnxruntime/b32": speed}},
        "parity": {"max_abs": 1e-6, "top1_agree": 1.0},
    }


def router_of(refs: Mapping[str, Ref], seed: int) -> Router:
    """Return a router that defers about half of the toys' inputs, calibrated for the models of `put_run`."""
    x_BCHW, _ = next(iter(toy_task().batches("validation", batch_size=48, limit=48)))
    small, temperature, confidence = toy_model(seed + 1), (0.8, 1.3), CONFIDENCES.bind("entropy")
    return Router(
        small=refs["prune"],
        large=refs["train"],
        digests=(state_digest(small.module), state_digest(toy_model(seed).module)),
        confidence=confidence,
        threshold=float(confidence(small(x_BCHW) / temperature[0]).quantile(0.5)),
        temperature=temperature,
    )


def put_run(
    store: ModelStore, folder: Path, *, seed: int = 0, is_passed: bool = True, has_onnx: bool = False
) -> dict[str, Ref]:
    """Store a whole small run and return its refs by stage; without `has_onnx` its ONNX file is none."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx, routes, flags = folder / "model.onnx", folder / "cascade.json", folder / "predictions.npz"
    if has_onnx:
        onnx_from_model(toy_model(seed + 1), onnx)
    else:
        onnx.write_bytes(b"not really onnx")
    np.savez(flags, correct_teacher=np.ones(4, np.uint8), correct_student=np.ones(4, np.uint8))
    cost = {"params": 1e3, "macs": 2e6, "size_bytes": 1e4}
    report = {"validation_accuracy": 0.95, "cost": cost}
    seeds = {"seed": seed}
    refs = {"train": put(store, "train", {}, report, model=toy_model(seed), config=seeds)}
    kept = {**report, "kept": {"conv1": [4, 8]}, "accuracy_cut": 0.4}
    role = {"model": refs["train"]}
    options = {"budget": "macs=0.5", "criterion": {"name": "taylor"}}
    refs["prune"] = put(store, "prune", role, kept, model=toy_model(seed + 1), config=options)
    more = {
        "onnx": {"size_bytes": 15, "parity_max_abs": 1e-6, "opset": 18},
        "int8": {"status": "refused", "reason": "slow"},
    }
    int8 = folder / "model.int8.onnx"
    int8.write_bytes(b"int8")
    files = {"model.onnx": onnx, "model.int8.onnx": int8}
    role = {"model": refs["prune"]}
    refs["export"] = put(store, "export", role, {**report, **more}, model=toy_model(seed + 1), files=files)
    router_of(refs, seed).write(routes)
    role = {"model": refs["prune"], "teacher": refs["train"]}
    refs["cascade"] = put(store, "cascade", role, {"threshold": 0.5}, files={"cascade.json": routes})
    role = {"model": refs["export"], "teacher": refs["train"], "cascade": refs["cascade"]}
    refs["evaluate"] = put(store, "evaluate", role, evaluation_report(), files={"predictions.npz": flags})
    checks = [{"name": "speedup", "value": 2.0, "limit": 1.5, "passed": is_passed, "interval": [1.9, 2.1]}]
    verdict = {"passed": is_passed, "reasons": ["speed is enough" if is_passed else "too slow"], "checks": checks,
               "int8": "demoted", "cascade": "accepted"}  # fmt: skip
    refs["gate"] = put(store, "gate", {"evaluation": refs["evaluate"]}, verdict)
    return refs


def put_engine(
    store: ModelStore, folder: Path, model: Ref, capability: str, *, level: str = "NONE", max_batch: int = 32
) -> Ref:
    """Store an export of `model` whose engine, made up, is for GPUs of `capability`; none for an empty one."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx, plan = folder / "engine.onnx", folder / "engine.plan"
    onnx.write_bytes(b"not really onnx")
    plan.write_bytes(f"engine for {capability} {level}".encode())
    manifest = {"compute_capability": capability, "tensorrt": "10.16.1.11"}
    manifest |= {"settings": {"max_batch": max_batch, "hardware_compatibility": level}}
    plan.with_name("engine.plan.json").write_text(json.dumps(manifest))
    made = {"model.plan": plan, "model.plan.json": plan.with_name("engine.plan.json")} if capability else {}
    report = {"tensorrt": {"status": "built" if made else "skipped", "reason": "a stand-in"}}
    config = {"engine_capability": capability, "engine_hardware": level}
    files = {"model.onnx": onnx, **made}
    return put(store, "export", {"model": model}, report, model=toy_model(1), files=files, config=config)


@functools.cache
def _empty_database() -> Path:
    """Make MLflow's tables once; a copy of the file saves each test three seconds."""
    from deploy.tracking.connection import connected

    path = Path(tempfile.mkdtemp(prefix="secateur-mlflow-")) / "mlflow.db"
    with connected(f"sqlite:///{path}"):
        pass
    return path


def fresh_uri(folder: Path) -> str:
    """Return the URI of an empty MLflow database in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_empty_database(), folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


def put_package(root: Path, *, seed: int = 0) -> Path:
    """Build the package of a small run, whose export holds an ONNX file, below `root`; return where it lies."""
    store = LocalStore(root / "store")
    refs = put_run(store, root / "files", seed=seed, has_onnx=True)
    parts = {"export": refs["export"], "gate": refs["gate"], "evaluation": refs["evaluate"], "cascade": refs["cascade"]}
    build_package(store, root / "package", parts, name="toy")
    return root / "package"
