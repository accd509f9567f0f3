"""Triton's Python backend running one ONNX file, for servers without the onnxruntime backend.

Needs numpy and onnxruntime in the Python that the backend runs. The requests that Triton batches are answered by
one call of the network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

FILE = "model.onnx"


class TritonPythonModel:
    """One instance of the model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the ONNX file of this version."""
        config = json.loads(args["model_config"])
        self._inputs = [item["name"] for item in config["input"]]
        self._outputs = [item["name"] for item in config["output"]]
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = Path(args["model_repository"]) / args["model_version"] / FILE
        is_gpu = args["model_instance_kind"] == "GPU"
        provider = "CUDAExecutionProvider" if is_gpu else "CPUExecutionProvider"
        self._session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        if self._session.get_providers()[0] != provider:
            raise RuntimeError(
                f"onnxruntime has no {provider}: install onnxruntime-gpu, or set the instances to KIND_CPU."
            )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests with one call of the network."""
        arrays = [[pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs]
                  for request in requests]  # fmt: skip
        given = {name: np.concatenate([one[index] for one in arrays]) for index, name in enumerate(self._inputs)}
        found = self._session.run(self._outputs, given)
        ends = np.cumsum([len(one[0]) for one in arrays])[:-1]
        parts = [np.split(array, ends) for array in found]
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, part[index]) for name, part in zip(self._outputs, parts, strict=True)]
            )
            for index in range(len(requests))
        ]
