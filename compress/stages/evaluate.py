"""Stage evaluate: the only reader of test data. Accuracy, cost, parity and paired latency of every artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.cascade.inference import RoutedSession, Router
from compress.core.registry import Piece
from compress.core.stage import STAGES, Entry, StageCall, StageConfig, StageResult
from compress.core.task import Task
from compress.measure.costs import cost_of
from compress.measure.paired import paired_latency
from compress.measure.runtimes import RUNTIMES, Session
from compress.measure.significance import wilson_interval

PREDICTIONS, INT8, ROUTER = "predictions.npz", "model.int8.onnx", "cascade.json"
NUM_PARITY = 64
#: Validation inputs that one sample of a latency goes through, and batches at most.
NUM_TIMED, NUM_TIMED_BATCHES = 256, 64
WARMUP = 2
#: x_BCHW -> logits_BC, both torch, on the CPU.
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(StageConfig):
    """Where and how long to time.

    Attributes:
        runtimes: Names of RUNTIMES. Of the default ones those that are installed are used; a name
            given by the user must be installed.
        batches: Batch sizes to time.
        rounds: Samples of each artifact, runtime and batch size.
        num_threads: CPU threads inside one call.
        seed: Of the order in which artifacts take turns, and of the intervals.
    """

    runtimes: tuple[str, ...] = ("onnxruntime", "torch")
    batches: tuple[int, ...] = (1, 32)
    rounds: int = 60
    num_threads: int = 1
    seed: int = 0


@dataclass
class Findings:
    """What has been measured so far.

    Attributes:
        models: Report by artifact: teacher, student, int8, cascade.
        correct_N: By artifact, 1 where its answer on the test split is right.
        ratios: Teacher over artifact, by quantity.
        parity: By runtime, how far its answers are from torch's.
        notes: What was left out and why.
    """

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    correct_N: dict[str, Tensor] = field(default_factory=dict)
    ratios: dict[str, dict[str, Any]] = field(default_factory=dict)
    parity: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@STAGES.register(
    "evaluate", config=EvaluateConfig, roles=("model", "teacher"), optional_roles=("cascade",), reads_test=True
)
def evaluate(call: StageCall) -> StageResult:
    """Measure the compressed model against its teacher, on the test split, once.

    INT8 is judged by the quantized file's own answers in its runtime; the cascade by really routing.

    Args:
        call: Roles "model" (with files, when it was exported), "teacher", and perhaps "cascade".
    """
    task, found = call.task.opened(), Findings()
    student, teacher = call.model("model"), call.model("teacher")
    for name, model in (("teacher", teacher), ("student", student)):
        cost = cost_of(model)
        found.models[name] = {key: getattr(cost, key) for key in ("macs", "params", "size_bytes")}
        _score(found, name, model, task)
    router = _router(call.parents, found)
    if router:
        _add_cascade(found, router, student, teacher, task)
    for runtime in _runtimes(call.config, found):
        with ExitStack() as stack:
            sessions = _open(stack, runtime, call.parents, call.config.num_threads)
            found.parity[runtime] = parity(student, sessions["student"], _validation_inputs(task))
            _add_sizes(found, sessions)
            if "int8" in sessions:
                _add_int8(found, call.parents["model"], sessions["int8"], task)
            if router:
                networks = _network(sessions["student"]), _network(sessions["teacher"])
                sessions["cascade"] = RoutedSession(router, *networks, sessions["student"])
            _time(found, call.config, runtime, sessions, task)
    _add_cost_ratios(found)
    path = _write_predictions(call.scratch / PREDICTIONS, found.correct_N, task)
    return StageResult(report=_report(found, task), files={PREDICTIONS: path})


def _score(found: Findings, name: str, answer: Network, task: Task) -> None:
    """Add the accuracy of `answer` on both splits to the report of `name`."""
    correct_N = _correct(answer, task, "test")
    found.correct_N[name] = correct_N
    found.models.setdefault(name, {}).update(
        test_accuracy=float(correct_N.mean()),
        interval=list(wilson_interval(float(correct_N.sum()), len(correct_N))),
        validation_accuracy=float(_correct(answer, task, "validation").mean()),
        latency_ms={},
    )


def _correct(answer: Network, task: Task, split: str) -> Tensor:
    flags = [task.correct(answer(x_BCHW), y_B) for x_BCHW, y_B in task.batches(split, batch_size=256)]
    return torch.cat(flags).double()


def _runtimes(config: EvaluateConfig, found: Findings) -> list[str]:
    """Return the runtimes to use; of the default ones, those that are there."""
    if config.runtimes != EvaluateConfig().runtimes:
        return [RUNTIMES[name].name for name in config.runtimes]
    missing = [name for name in config.runtimes if name not in RUNTIMES]
    found.notes += [f"runtime {name!r} is not installed, so nothing was measured in it." for name in missing]
    return [name for name in config.runtimes if name in RUNTIMES]


def _open(stack: ExitStack, runtime: str, parents: Mapping[str, Entry], num_threads: int) -> dict[str, Session]:
    """Return a session for each artifact that `runtime` can run."""

    def session(role: str, **more: Any) -> Session:
        known = RUNTIMES[runtime].options
        options = {key: value for key, value in {"num_threads": num_threads, **more}.items() if key in known}
        piece: Piece[Any] = RUNTIMES.bind(runtime, **options)
        opened: Session = stack.enter_context(piece(parents[role]))
        return opened

    sessions = {"teacher": session("teacher"), "student": session("model")}
    if INT8 in parents["model"].files and "precision" in RUNTIMES[runtime].options:
        sessions["int8"] = session("model", precision="int8")
    return sessions


def _network(session: Session) -> Network:
    """Return a session as a function of tensors."""
    return lambda x_BCHW: torch.from_numpy(np.asarray(session.infer(x_BCHW.numpy())))


def _validation_inputs(task: Task) -> Tensor:
    x_BCHW, _ = next(iter(task.batches("validation", batch_size=NUM_PARITY, limit=NUM_PARITY)))
    return x_BCHW


def parity(reference: Network, session: Session, x_BCHW: Tensor) -> dict[str, float]:
    """Return how far a runtime's answers are from torch's on the same inputs.

    Args:
        reference: The torch model.
        session: The same model in another runtime.
        x_BCHW: Inputs.

    Returns:
        max_abs: Largest difference of two logits.
        top1_agree: Share of the inputs with the same answer, 0..1.
    """
    ours_BC, theirs_BC = reference(x_BCHW), _network(session)(x_BCHW)
    return {
        "max_abs": float((ours_BC - theirs_BC).abs().max()),
        "top1_agree": float((ours_BC.argmax(1) == theirs_BC.argmax(1)).float().mean()),
    }


def _add_int8(found: Findings, entry: Entry, session: Session, task: Task) -> None:
    """Score the quantized file; its multiply-adds are the student's, its bytes its own."""
    costs = {key: found.models["student"][key] for key in ("macs", "params")}
    found.models["int8"] = {**costs, "size_bytes": float(entry.files[INT8].stat().st_size)}
    _score(found, "int8", _network(session), task)


def _time(
    found: Findings,
    config: EvaluateConfig,
    runtime: str,
    sessions: Mapping[str, Session],
    task: Task,
) -> None:
    """Time every artifact of one runtime in turns, for each batch size, on the same real inputs.

    One sample goes through several batches, because what a cascade costs depends on its inputs.
    """
    for batch in config.batches:
        num_batches = max(1, min(NUM_TIMED_BATCHES, NUM_TIMED // batch))
        timed = task.batches("validation", batch_size=batch, limit=batch * num_batches)
        stream = [x_BCHW.numpy() for x_BCHW, _ in timed]
        calls = {name: partial(_go_through, session, stream) for name, session in sessions.items()}
        times = paired_latency(calls, rounds=config.rounds, warmup=WARMUP, seed=config.seed)
        key = f"{runtime}/b{batch}"
        for name, stream_ms in times.median_ms.items():
            found.models[name]["latency_ms"][key] = stream_ms / len(stream)
            found.ratios.setdefault(name, {})[f"latency/{key}"] = times.ratio("teacher", name).as_json()


def _go_through(session: Session, stream: Sequence[NDArray[np.float32]]) -> None:
    for x_BCHW in stream:
        session.infer(x_BCHW)


def _add_sizes(found: Findings, sessions: Mapping[str, Session]) -> None:
    """Replace the size of the weights by that of the exported file, where a runtime runs one."""
    for name in ("teacher", "student"):
        if sessions[name].size_bytes:
            found.models[name]["size_bytes"] = float(sessions[name].size_bytes)


def _router(parents: Mapping[str, Entry], found: Findings) -> Router | None:
    if "cascade" not in parents:
        return None
    router = Router.read(parents["cascade"].files[ROUTER])
    if router.large != parents["teacher"].ref:
        found.notes.append(f"the cascade was calibrated with {router.large}, but the teacher here is another entry.")
    return router


def _add_cascade(found: Findings, router: Router, student: Network, teacher: Network, task: Task) -> None:
    """Route both splits for real; multiply-adds are expectations over the test split's routes."""
    deferred: list[Tensor] = []

    def answer(x_BCHW: Tensor) -> Tensor:
        routed = router(student, teacher, x_BCHW)
        deferred.append(routed.is_deferred_B)
        return routed.logits_BC

    _score(found, "cascade", answer, task)
    share = float(torch.cat(deferred)[: len(task.split("test"))].double().mean())
    small, large = found.models["student"], found.models["teacher"]
    found.models["cascade"].update(
        macs=small["macs"] + share * large["macs"],
        params=small["params"] + large["params"],
        route_shares=[1 - share, share],
    )


def _add_cost_ratios(found: Findings) -> None:
    teacher = found.models["teacher"]
    if "cascade" in found.models:
        found.models["cascade"]["size_bytes"] = teacher["size_bytes"] + found.models["student"]["size_bytes"]
    found.ratios.pop("teacher", None)
    for name, costs in found.models.items():
        if costs is not teacher:
            parts = {key: teacher[key] / costs[key] for key in ("macs", "params", "size_bytes")}
            found.ratios.setdefault(name, {}).update(parts)


def _write_predictions(path: Path, correct_N: Mapping[str, Tensor], task: Task) -> Path:
    arrays: dict[str, Any] = {"labels": task.split("test").labels_B.numpy()}
    for name, flags_N in correct_N.items():
        arrays[f"correct_{name}"] = flags_N.numpy().astype(np.uint8)
    np.savez(path, **arrays)
    return path


def _report(found: Findings, task: Task) -> dict[str, Any]:
    student = found.models["student"]
    worst = {
        "max_abs": max((each["max_abs"] for each in found.parity.values()), default=0.0),
        "top1_agree": min((each["top1_agree"] for each in found.parity.values()), default=1.0),
    }
    return {
        "cost": {key: student[key] for key in ("params", "macs", "size_bytes")},
        "validation_accuracy": student["validation_accuracy"],
        "num_test": len(task.split("test")),
        "num_validation": len(task.split("validation")),
        "models": found.models,
        "ratios": found.ratios,
        "parity": {**worst, "by_runtime": found.parity},
        "notes": found.notes,
    }
