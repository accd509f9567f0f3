"""Many networks timed in turns, so that none has a better minute than another on a machine that others use too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from compress.core.model import Model
from compress.measure.paired import PairedLatency
from compress.measure.runtimes import paired_sessions
from deploy.export.onnx_from_model import onnx_from_model
from deploy.runtime.onnxruntime import OnnxSession


@contextmanager
def exported(networks: Mapping[str, Model]) -> Iterator[dict[str, Path]]:
    """Yield an ONNX file of each network, by its name; they are gone behind the context."""
    with TemporaryDirectory(prefix="secateur-") as folder:
        files = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(networks)}
        yield {name: onnx_from_model(networks[name], file).path for name, file in files.items()}


def timed_in_turns(
    files: Mapping[str, Path], x_BCHW: NDArray[np.float32], *, rounds: int, pause_s: float, seed: int = 0
) -> PairedLatency:
    """Time ONNX files in turns, in new sessions of ONNX Runtime with one thread.

    Args:
        files: By name.
        x_BCHW: What all are given.
        rounds: Samples of each.
        pause_s: Seconds of rest between two parts of the measurement.
        seed: Of the order in a round.
    """
    sessions = {name: OnnxSession(file) for name, file in files.items()}
    return paired_sessions(sessions, x_BCHW, rounds=rounds, warmup=3, seed=seed, pause_s=pause_s)
