"""ONNX Runtime: sessions over exported files, with fixed threads and no surprise about the provider."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.stage import Entry
from compress.measure.runtimes import RUNTIMES, Session
from deploy.runtime.onnx_session import CPU, ProviderMissing, session_from_bytes

FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}


class OnnxSession:
    """An ONNX file that is ready to answer.

    Attributes:
        path: The file.
        device: Execution provider in short: "cpu", "cuda", "tensorrt".
        num_threads: Threads inside one operator.
        input_shape: (C, H, W) of one input.
        size_bytes: Size of the file.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, *, num_threads: int = 1, provider: str = CPU) -> None:
        if not path.is_file():
            raise ValueError(f"{path} does not exist: export the model first (`secateur run export`).")
        if num_threads < 1:
            raise ValueError(f"runtime 'onnxruntime': num_threads={num_threads}; use 1 or more.")
        self.path, self.num_threads, self.size_bytes = path, num_threads, path.stat().st_size
        self.device = provider.removesuffix("ExecutionProvider").lower()
        self._session = session_from_bytes(path.read_bytes(), num_threads=num_threads, provider=provider)
        self._input = self._session.get_inputs()[0].name
        self.input_shape = tuple(int(size) for size in self._session.get_inputs()[0].shape[1:])

    def infer(self, x_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, num_classes), float32, for inputs (B, C, H, W)."""
        logits_BC: NDArray[np.float32] = self._session.run(None, {self._input: x_BCHW})[0]
        return logits_BC


@RUNTIMES.register("onnxruntime", package="onnxruntime")
@contextmanager
def onnxruntime(
    entry: Entry,
    *,
    num_threads: int = 1,
    precision: Literal["fp32", "int8"] = "fp32",
    provider: str = CPU,
) -> Iterator[Session]:
    """ONNX Runtime on the exported file, one operator after the other.

    Args:
        entry: Holds model.onnx (and model.int8.onnx); without the float file its model is exported on the fly.
        num_threads: Threads inside one operator.
        precision: "fp32", or "int8" for the quantized file, which must be there.
        provider: Execution provider; another one than asked for is an error.

    Yields:
        A session whose fp32 logits are torch's within 1e-4.

    Differs from the paper: no paper.

    Cost: one forward pass a call; an export (under a second for small networks) when there is no file.

    Reference: onnxruntime.SessionOptions.
    """
    if path := entry.files.get(FILES[precision]):
        yield OnnxSession(path, num_threads=num_threads, provider=provider)
        return
    if precision == "int8":
        reason = entry.report.get("int8", {}).get("reason", "no export stage made one")
        raise ValueError(f"{entry.ref} holds no {FILES[precision]} ({reason}): use precision fp32, or export again.")
    from deploy.export.onnx_from_model import onnx_from_model

    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        export = onnx_from_model(entry.model, Path(folder) / FILES["fp32"], ref=entry.ref)
        yield OnnxSession(export.path, num_threads=num_threads, provider=provider)


__all__ = ["CPU", "FILES", "OnnxSession", "ProviderMissing", "onnxruntime", "session_from_bytes"]
