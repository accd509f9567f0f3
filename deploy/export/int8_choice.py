"""Which INT8 file to ship, if any: measured on this machine, against the float file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress.core.progress import track
from compress.core.registry import Piece
from compress.core.task import Task
from compress.measure.paired import Ratio
from compress.measure.runtimes import Session, paired_sessions

FLOAT = "fp32"


@dataclass(frozen=True, kw_only=True)
class Int8Variant:
    """One quantized file and what it is worth.

    Attributes:
        name: Its piece, with the options that were set.
        path: The file.
        size_bytes: Its size.
        validation_accuracy: 0 to 1, in ONNX Runtime.
        speedups: Time of the float file over time of this one, by batch size; above 1 is faster.
    """

    name: str
    path: Path
    size_bytes: int
    validation_accuracy: float
    speedups: Mapping[int, Ratio] = field(default_factory=dict)

    def as_json(self, batch: int) -> dict[str, Any]:
        """JSON for the report; `batch` is the one that decides."""
        return {
            "name": self.name,
            "validation_accuracy": self.validation_accuracy,
            "size_bytes": self.size_bytes,
            "speedup_vs_fp32": self.speedups[batch].as_json(),
            "speedup_by_batch": {f"b{size}": ratio.as_json() for size, ratio in self.speedups.items()},
        }


@dataclass(frozen=True)
class Int8Choice:
    """The verdict.

    Attributes:
        chosen: The variant to ship, or None when INT8 is refused.
        reason: One sentence with the numbers behind it.
    """

    chosen: Int8Variant | None
    reason: str

    @property
    def status(self) -> str:
        """Return "accepted" or "refused"."""
        return "accepted" if self.chosen else "refused"


@dataclass(frozen=True, kw_only=True)
class Int8Limits:
    """What INT8 must keep.

    Attributes:
        fp32_accuracy: Validation accuracy of the float file on the same inputs, 0 to 1.
        drop_max: Largest loss of accuracy, as a difference of the two.
        batch: Batch size whose speed-up decides.
    """

    fp32_accuracy: float
    drop_max: float
    batch: int


def choose(variants: Sequence[Int8Variant], limits: Int8Limits) -> Int8Choice:
    """Return the fastest variant that keeps the accuracy and is sure to be faster than float.

    Sure means that the lower end of the speed-up's 95 % interval is above 1. Of those whose interval
    overlaps the fastest one's, which noise alone may order, the most accurate is taken, then the first given.
    """
    if not variants:
        return Int8Choice(None, "no INT8 variant was asked for.")
    batch, floor = limits.batch, limits.fp32_accuracy - limits.drop_max
    accurate = [v for v in variants if v.validation_accuracy >= floor - 1e-9]
    if not accurate:
        best = max(variants, key=lambda v: v.validation_accuracy)
        return Int8Choice(
            None,
            f"no INT8 variant keeps the accuracy: the best, {best.name}, has {best.validation_accuracy:.2%} against "
            f"{limits.fp32_accuracy:.2%} of fp32, and may lose {100 * limits.drop_max:g} points.",
        )
    best = max(accurate, key=lambda v: v.speedups[batch].value)
    fast = [v for v in accurate if v.speedups[batch].low > 1.0]
    if not fast:
        return Int8Choice(
            None,
            f"INT8 is not faster than fp32 on this machine: the best that keeps the accuracy, {best.name}, "
            f"has {_said(best.speedups[batch])} of its speed at batch {batch}.",
        )
    fastest = max(fast, key=lambda v: v.speedups[batch].value)
    level = [v for v in fast if v.speedups[batch].high >= fastest.speedups[batch].low]
    best = max(level, key=lambda v: v.validation_accuracy)
    return Int8Choice(
        best,
        f"{best.name} has {_said(best.speedups[batch])} of the speed of fp32 at batch {batch} "
        f"and {best.validation_accuracy:.2%} validation accuracy against {limits.fp32_accuracy:.2%}.",
    )


def accuracy_of(session: Session, task: Task, *, limit: int | None = None, batch_size: int = 256) -> float:
    """Return the part of validation inputs, 0 to 1, whose largest output is their label."""
    right, seen = 0, 0
    for x_BCHW, y_B in task.batches("validation", batch_size=batch_size, limit=limit):
        right += int((session.infer(x_BCHW.numpy()).argmax(1) == y_B.numpy()).sum())
        seen += len(y_B)
    return right / seen


@dataclass(frozen=True, kw_only=True)
class Int8Bench:
    """How variants are measured.

    Attributes:
        task: Gives training inputs for calibration and validation inputs for accuracy.
        num_images: Inputs for calibration.
        limit: Validation inputs at most, or None for all.
        batches: Batch sizes for the latency.
        rounds: Rounds of paired timing for each batch size.
        num_threads: Threads inside one operator.
        seed: Seeds the calibration's choice, the timing's order and its bootstrap.
    """

    task: Task
    num_images: int
    limit: int | None
    batches: Sequence[int]
    rounds: int
    num_threads: int
    seed: int

    def measure(self, onnx_path: Path, pieces: Sequence[Piece[Any]], folder: Path) -> list[Int8Variant]:
        """Write one file a piece into `folder` and measure all of them and the float file in turns."""
        from deploy.export.quantized_onnx import calibration_batches
        from deploy.runtime.onnxruntime import OnnxSession

        calibration = calibration_batches(self.task, num_images=self.num_images, seed=self.seed)
        paths = {_label(piece): folder / f"{_label(piece)}.onnx" for piece in pieces}
        for piece in track(pieces, total=len(pieces), what="quantize to INT8"):
            piece(onnx_path, paths[_label(piece)], calibration)
        sessions = {name: OnnxSession(path, num_threads=self.num_threads) for name, path in paths.items()}
        speedups = self._speedups({FLOAT: OnnxSession(onnx_path, num_threads=self.num_threads), **sessions})
        return [
            Int8Variant(
                name=name,
                path=path,
                size_bytes=path.stat().st_size,
                validation_accuracy=accuracy_of(sessions[name], self.task, limit=self.limit),
                speedups=speedups[name],
            )
            for name, path in paths.items()
        ]

    def _speedups(self, sessions: Mapping[str, Session]) -> dict[str, dict[int, Ratio]]:
        found: dict[str, dict[int, Ratio]] = {name: {} for name in sessions}
        for batch in self.batches:
            x_BCHW = np.ascontiguousarray(self.task.input.example(batch).numpy())
            timed = paired_sessions(sessions, x_BCHW, rounds=self.rounds, warmup=3, seed=self.seed)
            for name in sessions:
                found[name][batch] = timed.ratio(FLOAT, name)
        return found


def _label(piece: Piece[Any]) -> str:
    """Return the piece's name, with its options behind it if it has any: "unsigned_per_tensor_entropy"."""
    return "_".join([piece.name, *map(str, piece.options.values())])


def _said(ratio: Ratio) -> str:
    return f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"
