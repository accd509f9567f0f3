"""config.pbtxt of Triton models: what is served, how requests are batched, what is warmed up."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compress.core.registry import UnknownName

MAX_BATCH = 64
#: How long a request may wait for others to be batched with, in microseconds.
QUEUE_DELAY_US = 200
#: Backends that run a plain ONNX file.
ONNX_BACKENDS = ("onnxruntime", "python")
#: Parameter of every model that ONNX Runtime runs; tells an ONNX file in the Python backend from other Python.
ONNX_PARAMETER = "intra_op_thread_count"
#: Models that some machines only can run; a server is shown them on request.
KINDS = ("tensorrt", "aotinductor")


class Enum(str):
    """A value that is written without quotation marks."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a model.

    Attributes:
        name: Its name in the network.
        dims: Sizes without the batch.
        dtype: Triton's name of the type.
        labels: File with one class name a line, or an empty string.
    """

    name: str
    dims: Sequence[int]
    dtype: str = "TYPE_FP32"
    labels: str = ""

    def as_config(self) -> dict[str, Any]:
        """Return its part of a configuration."""
        found = {"name": self.name, "data_type": Enum(self.dtype), "dims": list(self.dims)}
        return found | ({"label_filename": self.labels} if self.labels else {})


@dataclass(frozen=True, kw_only=True)
class TritonModel:
    """What one config.pbtxt says.

    Attributes:
        name: Name of the model and of its folder.
        backend: "onnxruntime", "python" or "tensorrt".
        inputs: Inputs.
        outputs: Outputs.
        max_batch: Largest batch.
        plans: TensorRT engines by compute capability ("8.6": "model.8.6.plan").
        parameters: Strings for the backend.
        is_warmed: Whether the model is run once with 1 and once with `max_batch` inputs before it is ready.
        is_on_cpu: Whether it stays on the CPU also where there is a GPU.
    """

    name: str
    backend: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    max_batch: int = MAX_BATCH
    plans: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    is_warmed: bool = True
    is_on_cpu: bool = False

    def pbtxt(self) -> str:
        """Return the text of config.pbtxt."""
        found: dict[str, Any] = {
            "name": self.name,
            "backend": self.backend,
            "max_batch_size": self.max_batch,
            "input": [tensor.as_config() for tensor in self.inputs],
            "output": [tensor.as_config() for tensor in self.outputs],
            "version_policy": {"latest": {"num_versions": 1}},
            "dynamic_batching": {"max_queue_delay_microseconds": QUEUE_DELAY_US},
        }
        if self.plans:
            found["cc_model_filenames"] = [{"key": key, "value": name} for key, name in sorted(self.plans.items())]
        if self.is_on_cpu:
            found["instance_group"] = [{"count": 1, "kind": Enum("KIND_CPU")}]
        if self.parameters:
            found["parameters"] = [
                {"key": key, "value": {"string_value": value}} for key, value in sorted(self.parameters.items())
            ]
        if self.is_warmed:
            found["model_warmup"] = [self._warmup(batch) for batch in sorted({1, self.max_batch})]
        return pbtxt_of(found)

    def _warmup(self, batch: int) -> dict[str, Any]:
        zeros = [
            {"key": one.name, "value": {"data_type": Enum(one.dtype), "dims": list(one.dims), "zero_data": True}}
            for one in self.inputs
        ]
        return {"name": f"batch of {batch}", "batch_size": batch, "inputs": zeros}


def pbtxt_of(fields: Mapping[str, Any], indent: str = "") -> str:
    """Return fields as the text of a protocol buffer message.

    >>> print(pbtxt_of({"name": "a", "kind": Enum("KIND_CPU"), "dims": [1, 8], "input": [{"name": "x"}]}), end="")
    name: "a"
    kind: KIND_CPU
    dims: 1
    dims: 8
    input {
      name: "x"
    }
    """
    lines = []
    for key, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                lines.append(f"{indent}{key} {{\n{pbtxt_of(one, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{key}: {one if isinstance(one, Enum) else json.dumps(one)}\n")
    return "".join(lines)


def with_onnx_backend(text: str, backend: str) -> str:
    r"""Return a config.pbtxt whose ONNX file is run by another backend; one that runs none stays as it is.

    A model of the Python backend runs an ONNX file if it has ONNX Runtime's parameters; a cascade has none.

    >>> with_onnx_backend('name: "a"\nbackend: "onnxruntime"\n', "python")
    'name: "a"\nbackend: "python"\n'
    >>> with_onnx_backend('name: "a_cascade"\nbackend: "python"\n', "onnxruntime")
    'name: "a_cascade"\nbackend: "python"\n'

    Raises:
        ValueError: No such backend runs ONNX files.
    """
    check_backend(backend)
    of_onnx = ONNX_BACKENDS if f'"{ONNX_PARAMETER}"' in text else ("onnxruntime",)
    return re.sub(rf'^backend: "({"|".join(of_onnx)})"$', f'backend: "{backend}"', text, flags=re.MULTILINE)


def check_backend(backend: str) -> None:
    """Raise ValueError for a backend that runs no ONNX file; an empty one means no choice."""
    if backend and backend not in ONNX_BACKENDS:
        raise ValueError(f"backend {backend!r} runs no ONNX file: choose one of {', '.join(ONNX_BACKENDS)}.")


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise UnknownName for a kind of model that is no kind of model on request."""
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownName.among("kind of model on request", kind, KINDS)


def triton_name(name: str) -> str:
    """Return a name that is safe as a folder and in a URL.

    >>> triton_name("team a/digits")
    'team_a_digits'
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if not safe.strip("_-"):
        raise ValueError(f"{name!r} cannot name a Triton model: use letters and digits.")
    return safe
