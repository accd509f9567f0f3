"""A cascade as one Triton model: business logic scripting over its members.

The small network answers everything, the router says what to defer, and the large network is called with the deferred
inputs alone, and not at all when there are none. All requests that Triton batches share these calls.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

INPUT, LOGITS, IS_DEFERRED = "input", "logits", "is_deferred"


class TritonPythonModel:
    """One instance of the cascade; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the names of the members and the large network's temperature."""
        found = {key: item["string_value"] for key, item in json.loads(args["model_config"])["parameters"].items()}
        self._small, self._router, self._large = found["small"], found["router"], found["large"]
        self._temperature = np.float32(found["large_temperature"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests together; when a member fails, each of them gets its error."""
        arrays = [pb_utils.get_input_tensor_by_name(request, INPUT).as_numpy() for request in requests]
        try:
            logits_BC, is_deferred_B1 = self._answer(np.concatenate(arrays))
        except MemberError as error:
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))) for _ in requests]
        ends = np.cumsum([len(array) for array in arrays])[:-1]
        parts = zip(np.split(logits_BC, ends), np.split(is_deferred_B1, ends), strict=True)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(LOGITS, logits), pb_utils.Tensor(IS_DEFERRED, deferred)])
            for logits, deferred in parts
        ]

    def _answer(self, x_BCHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (small_BC,) = _call(self._small, {INPUT: x_BCHW}, [LOGITS])
        scaled_BC, is_deferred_B1 = _call(self._router, {LOGITS: small_BC}, ["scaled", IS_DEFERRED])
        rows_B = is_deferred_B1[:, 0]
        if not rows_B.any():
            return scaled_BC, is_deferred_B1
        (large_BC,) = _call(self._large, {INPUT: x_BCHW[rows_B]}, [LOGITS])
        logits_BC = scaled_BC.copy()
        logits_BC[rows_B] = large_BC / self._temperature
        return logits_BC, is_deferred_B1


class MemberError(RuntimeError):
    """A member of the cascade did not answer; says which one and why."""


def _call(model: str, given: dict[str, np.ndarray], wanted: list[str]) -> list[np.ndarray]:
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=wanted,
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in given.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    answer = request.exec()
    if answer.has_error():
        raise MemberError(f"{model}: {answer.error().message()}")
    return [pb_utils.get_output_tensor_by_name(answer, name).as_numpy() for name in wanted]
