"""Which TensorRT engine to ship: 16 bits, or INT8 when that is measured to be worth it on this GPU.

TensorRT's explicit INT8 is often slower than 16 bits, so that no INT8 engine is kept on trust.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compress.core.task import Task
from compress.measure.paired import PairedLatency, Ratio
from compress.measure.runtimes import Session, paired_sessions
from deploy.export.engine_from_onnx import EngineExport
from deploy.export.int8_choice import accuracy_of

INT8 = "int8"


@dataclass(frozen=True, kw_only=True)
class EngineCandidate:
    """A built engine that can be measured.

    Attributes:
        precision: "fp16", "bf16" or "int8".
        export: The engine and its manifest.
        session: Runs it.
        validation_accuracy: 0 to 1, of the engine itself.
    """

    precision: str
    export: EngineExport
    session: Session
    validation_accuracy: float


@dataclass(frozen=True)
class EngineChoice:
    """The verdict.

    Attributes:
        precision: Of the engine to ship.
        reason: One sentence with the numbers behind it.
    """

    precision: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """How engines are measured.

    Attributes:
        task: Gives validation inputs.
        batches: Batch sizes for the latency; larger ones than an engine takes are left out.
        max_batch: Largest batch that the engines take.
        limit: Validation inputs at most, or None for all.
        rounds: Rounds of paired timing for each batch size.
        seed: Seeds the timing's order and its bootstrap.
    """

    task: Task
    batches: Sequence[int]
    max_batch: int
    limit: int | None
    rounds: int
    seed: int

    warmup: int = field(default=10, init=False)

    def accuracy(self, session: Session) -> float:
        """Return the validation accuracy of an engine."""
        return accuracy_of(session, self.task, limit=self.limit, batch_size=self.max_batch)

    def latency(self, sessions: Mapping[str, Session]) -> dict[int, PairedLatency]:
        """Return the times of all sessions, taken in turns, by batch size."""
        found = {}
        for batch in sorted({min(size, self.max_batch) for size in self.batches}, reverse=True):
            x_BCHW = np.ascontiguousarray(self.task.input.example(batch).numpy())
            found[batch] = paired_sessions(sessions, x_BCHW, rounds=self.rounds, warmup=self.warmup, seed=self.seed)
        return found

    @property
    def deciding_batch(self) -> int:
        """The batch size whose speed-up decides."""
        return min(self.batches[0], self.max_batch)

    def conditions(self) -> dict[str, Any]:
        """Return how the latency was taken; clocks and power limit are in the engine's manifest."""
        return {"rounds": self.rounds, "warmup": self.warmup, "concurrency": 1, "includes_copies": True}


def choose_engine(
    half: EngineCandidate, int8: EngineCandidate, *, speedup: Ratio, accuracy: float, drop_max: float
) -> EngineChoice:
    """Return INT8 when it keeps the accuracy and is sure to be faster than 16 bits, else the 16-bit engine, and why.

    Args:
        half: What to fall back to.
        int8: What must earn its place.
        speedup: Time of 16 bits over time of INT8; sure means that its lower end is above 1.
        accuracy: Validation accuracy of the float file on the same inputs, 0 to 1.
        drop_max: Largest loss of accuracy, as a difference of the two.
    """
    name = half.precision.upper()
    said = f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}] of the speed of {name}"
    if int8.validation_accuracy < accuracy - drop_max - 1e-9:
        reason = (
            f"the INT8 engine has {int8.validation_accuracy:.2%} validation accuracy against {accuracy:.2%} of fp32, "
            f"and may lose {100 * drop_max:g} points: {name} is kept."
        )
        return EngineChoice(half.precision, reason)
    if not speedup.low > 1.0:
        return EngineChoice(half.precision, f"the INT8 engine has {said}, which is not surely faster: {name} is kept.")
    return EngineChoice(int8.precision, f"the INT8 engine has {said} and {int8.validation_accuracy:.2%} accuracy.")


def latency_report(found: Mapping[int, PairedLatency], rival: str) -> dict[str, Any]:
    """Return medians and speed-ups over `rival` as JSON, by batch size."""
    return {
        f"b{batch}": {
            "median_ms": timed.median_ms,
            "speedup": {name: timed.ratio(rival, name).as_json() for name in timed.samples_ms if name != rival},
        }
        for batch, timed in found.items()
    }
