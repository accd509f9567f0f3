"""TensorRT: a built engine on the GPU, with torch's allocator for its buffers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.core.stage import Entry
from compress.measure.runtimes import RUNTIMES, Session
from deploy.export.engine_from_onnx import EngineError, require_tensorrt

ENGINE = "model.plan"


class EngineSession:
    """A deserialized engine with one input and one output, both float32.

    Attributes:
        path: The engine's file.
        input_shape: (C, H, W) of one input.
        max_batch: Largest batch of its profile.
        size_bytes: Size of the file.
    """

    name = "tensorrt"
    num_threads = 1

    def __init__(self, path: Path, *, trt: Any = None, device: str = "cuda") -> None:
        trt = trt or require_tensorrt()
        self.path, self.device, self.size_bytes = path, device, path.stat().st_size
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        if _is_version_compatible(path):
            runtime.engine_host_code_allowed = True
        self._engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EngineError(
                f"TensorRT {trt.__version__} does not load {path.name}: it was built by another version or for "
                f"another GPU ({path.name}.json says which); build it again here."
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self._input = next(name for name in names if is_input[name])
        self._output = next(name for name in names if not is_input[name])
        self.input_shape = tuple(int(size) for size in self._engine.get_tensor_shape(self._input))[1:]
        self.max_batch = int(self._engine.get_tensor_profile_shape(self._input, 0)[2][0])
        self._context = self._engine.create_execution_context()

    def infer(self, x_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, num_classes), float32, for inputs (B, C, H, W) with B up to `max_batch`."""
        if len(x_BCHW) > self.max_batch:
            raise ValueError(f"batch {len(x_BCHW)} is over the engine's {self.max_batch}: build it with a larger one.")
        inputs = torch.from_numpy(x_BCHW).to(self.device).contiguous()
        self._context.set_input_shape(self._input, tuple(inputs.shape))
        logits_BC = torch.empty(tuple(self._context.get_tensor_shape(self._output)), device=self.device)
        self._context.set_tensor_address(self._input, inputs.data_ptr())
        self._context.set_tensor_address(self._output, logits_BC.data_ptr())
        if not self._context.execute_async_v3(self._stream()):
            raise EngineError(f"TensorRT could not run {self.path.name} on a batch of {len(x_BCHW)}.")
        result: NDArray[np.float32] = logits_BC.cpu().numpy()
        return result

    def _stream(self) -> int:
        return int(torch.cuda.current_stream().cuda_stream) if self.device == "cuda" else 0


def _is_version_compatible(path: Path) -> bool:
    """Return whether the manifest beside an engine says that it carries code of its own."""
    manifest = path.with_name(f"{path.name}.json")
    settings = json.loads(manifest.read_text()).get("settings", {}) if manifest.is_file() else {}
    return bool(settings.get("is_version_compatible", False))


@RUNTIMES.register("tensorrt", package="tensorrt")
@contextmanager
def tensorrt(entry: Entry) -> Iterator[Session]:
    """TensorRT on the engine that the export stage built.

    Args:
        entry: Holds model.plan.

    Yields:
        A session whose logits are the fp32 ones within the engine's precision (1e-2 for FP16).

    Differs from the paper: no paper.

    Cost: one copy to the GPU, one forward pass and one copy back a call.

    Reference: tensorrt.IExecutionContext.execute_async_v3.
    """
    if (path := entry.files.get(ENGINE)) is None:
        reason = entry.report.get("tensorrt", {}).get("reason", "no export stage built one")
        raise ValueError(f"{entry.ref} holds no {ENGINE} ({reason}): run the export stage on the GPU machine.")
    yield EngineSession(path)
