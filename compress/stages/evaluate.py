"""Stage evaluate: the only reader of test data. Accuracy, cost, parity and paired latency of every artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from compress.core.model import Model
from compress.core.progress import track
from compress.core.registry import Piece
from compress.core.stage import STAGES, Entry, StageCall, StageConfig, StageResult
from compress.core.task import Task
from compress.measure.agreement import agreement
from compress.measure.costs import cost_of
from compress.measure.memory import peak_memory_bytes
from compress.measure.paired import paired_latency
from compress.measure.runtimes import RUNTIMES, Session, is_installed
from compress.measure.significance import wilson_interval
from compress.train.checkpoint import state_digest

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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("runtimes", "batches"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name at least one.")
        if min(self.batches) < 1:
            raise ValueError(f"batches={self.batches!r}: each must be 1 or more.")
        for name in ("rounds", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be 1 or more.")


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
    "evaluate",
    config=EvaluateConfig,
    roles=("model", "teacher"),
    optional_roles=("cascade",),
    reads_test=True,
    version=5,
)
def evaluate(call: StageCall) -> StageResult:
    """Measure the compressed model against its teacher, on the test split, once.

    INT8 is judged by the quantized file's own answers in its runtime; the cascade by really routing.

    Args:
        call: Roles "model" (with files, when it was exported), "teacher", and perhaps "cascade". Its task
            is open, because the stage's card says that it reads test data.
    """
    task, found = call.task, Findings()
    student, teacher = call.model("model"), call.model("teacher")
    runtimes, router = _runtimes(call.config, found), _router(call)
    for name, model in (("teacher", teacher), ("student", student)):
        found.models[name] = _costs(model)
        _score(found, name, model, task)
    if router:
        _add_cascade(found, router, student, teacher, task)
    visits = _visits(found, call, runtimes, router)
    for runtime, batch, sessions in track(visits, total=len(runtimes) * len(call.config.batches), what="evaluate"):
        _time(found, call.config, f"{runtime}/b{batch}", sessions, _stream(task, batch))
    _add_cost_ratios(found)
    path = _write_predictions(call.scratch / PREDICTIONS, found.correct_N, task)
    return StageResult(report=_report(found, task), files={PREDICTIONS: path})


def _costs(model: Model) -> dict[str, float]:
    """Return what can be counted without a clock, by quantity."""
    cost = cost_of(model)
    counted = {key: getattr(cost, key) for key in ("macs", "params", "size_bytes")}
    return {**counted, "peak_memory_bytes": float(peak_memory_bytes(model.module, model.input.example(1)))}


def _visits(
    found: Findings, call: StageCall, runtimes: Sequence[str], router: Router | None
) -> Iterator[tuple[str, int, dict[str, Session]]]:
    """Open one runtime after the other, compare its answers, and yield its sessions for every batch size to time."""
    student, task = call.model("model"), call.task
    for runtime in runtimes:
        with ExitStack() as stack:
            sessions = _open(stack, runtime, call.parents, call.config.num_threads)
            found.parity[runtime] = _parity(student, sessions["student"], _validation_inputs(task))
            _add_sizes(found, sessions)
            if "int8" in sessions:
                _add_int8(found, call.parents["model"], sessions["int8"], task)
            if router:
                networks = _network(sessions["student"]), _network(sessions["teacher"])
                sessions["cascade"] = RoutedSession(router, *networks, sessions["student"])
            for batch in call.config.batches:
                yield runtime, batch, sessions


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
    """Return the runtimes to use; of the default ones, those that are there.

    Raises:
        ValueError: A runtime that the user named is unknown or cannot be used here.
    """
    missing = [name for name in config.runtimes if not is_installed(name)]
    if config.runtimes != EvaluateConfig().runtimes:
        for name in missing:
            raise ValueError(f"runtime {RUNTIMES[name].name!r} is not installed here: install it, or leave it out.")
    found.notes += [f"runtime {name!r} is not installed, so nothing was measured in it." for name in missing]
    return [name for name in config.runtimes if name not in missing]


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


def _parity(reference: Model, session: Session, x_BCHW: Tensor) -> dict[str, float]:
    """Return how far a runtime's answers are from torch's on the same inputs."""
    return agreement(reference(x_BCHW).float().numpy(), np.asarray(session.infer(x_BCHW.numpy()))).as_json()


def _add_int8(found: Findings, entry: Entry, session: Session, task: Task) -> None:
    """Score the quantized file; its multiply-adds are the student's, its bytes its own."""
    costs = {key: found.models["student"][key] for key in ("macs", "params")}
    found.models["int8"] = {**costs, "size_bytes": float(entry.files[INT8].stat().st_size)}
    _score(found, "int8", _network(session), task)


def _stream(task: Task, batch: int) -> list[NDArray[np.float32]]:
    """Return the real inputs that one sample of a latency goes through, in batches.

    There are several, because what a cascade costs depends on its inputs.
    """
    num_batches = max(1, min(NUM_TIMED_BATCHES, NUM_TIMED // batch))
    timed = task.batches("validation", batch_size=batch, limit=batch * num_batches)
    return [x_BCHW.numpy() for x_BCHW, _ in timed]


def _time(
    found: Findings,
    config: EvaluateConfig,
    key: str,
    sessions: Mapping[str, Session],
    stream: Sequence[NDArray[np.float32]],
) -> None:
    """Time every artifact of one runtime in turns on the same inputs, and report it under `key`."""
    calls = {name: partial(_go_through, session, stream) for name, session in sessions.items()}
    times = paired_latency(calls, rounds=config.rounds, warmup=WARMUP, seed=config.seed)
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


def _router(call: StageCall) -> Router | None:
    """Return the cascade, if there is one; one that was calibrated for other models is refused."""
    if "cascade" not in call.parents:
        return None
    router = Router.read(call.parents["cascade"].files[ROUTER])
    router.check_members(*(state_digest(call.model(role).module) for role in ("model", "teacher")))
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
            counted = ("macs", "params", "size_bytes", "peak_memory_bytes")
            parts = {key: teacher[key] / costs[key] for key in counted if key in costs}
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
