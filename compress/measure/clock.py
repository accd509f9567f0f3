"""Clock: the latency of candidates in parts of a reference's, measured in turns with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from compress.core.model import Model
from compress.core.registry import Piece
from compress.core.stage import Entry
from compress.measure.runtimes import Session, paired_sessions


class Clock:
    """Times candidates against one reference, whose session stays open.

    Attributes:
        batch: Inputs of one call.
    """

    def __init__(
        self, runtime: Piece[Any], reference: Session, model: Model, *, batch: int, rounds: int, pause_s: float = 0.0
    ) -> None:
        self.batch = batch
        self._runtime, self._reference, self._rounds, self._pause_s = runtime, reference, rounds, pause_s
        self._x_BCHW = model.input.example(batch).numpy()

    @classmethod
    @contextmanager
    def against(
        cls, reference: Entry, runtime: Piece[Any], *, batch: int, rounds: int, pause_s: float = 0.0
    ) -> Iterator[Clock]:
        """Open `reference` in `runtime` for as long as the context lasts; what else happens in it keeps its threads.

        Args:
            reference: Entry that the ratios refer to.
            runtime: Piece of RUNTIMES.
            batch: Inputs of one call.
            rounds: Samples of the reference and of the candidate.
            pause_s: Seconds of rest between two parts of a measurement.
        """
        before = torch.get_num_threads()
        with runtime(reference) as session:
            torch.set_num_threads(before)
            yield cls(runtime, session, reference.model, batch=batch, rounds=rounds, pause_s=pause_s)

    def measure(self, candidate: Model) -> dict[str, Any]:
        """Return the paired ratio candidate / reference, and the reference's time in milliseconds."""
        with self._runtime(Entry.of(candidate)) as session:
            sessions = {"candidate": session, "reference": self._reference}
            times = paired_sessions(sessions, self._x_BCHW, rounds=self._rounds, warmup=3, pause_s=self._pause_s)
        return {
            "ratio": times.ratio("candidate", "reference").value,
            "reference_ms": times.median_ms["reference"],
            "runtime": session.name,
            "device": session.device,
            "batch": self.batch,
        }
