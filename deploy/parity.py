"""Parity: the same inputs through several runtimes, and where they part when they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from compress.core.model import Model
from compress.measure.agreement import agreement
from compress.measure.runtimes import Session

#: Rounding of float32 through a deep network, relative to its largest output.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Parity:
    """How far runtimes are from torch.

    Attributes:
        max_abs: Largest |runtime - torch| of any output; infinite when one of them is not a number.
        top1_agree: Part of the inputs, 0 to 1, on which the worst runtime names the class that torch names.
        worst: Name of the session with the largest difference.
        largest: Largest |output| of torch; float32 rounds in proportion to it.
        first_layer_that_differs: Path of a module, or None when all agree or nobody asked.
    """

    max_abs: float
    top1_agree: float
    worst: str
    largest: float
    first_layer_that_differs: str | None = None

    def is_within(self, limit: float) -> bool:
        """Return whether the difference is at most `limit`, or a millionth of the largest output if that is more.

        >>> Parity(0.004, 1.0, "onnxruntime", 14702.0).is_within(1e-4)
        True
        >>> Parity(0.004, 1.0, "onnxruntime", 100.0).is_within(1e-4)
        False
        """
        return self.max_abs <= max(limit, ROUNDING * self.largest)


def parity(
    model: Model,
    sessions: Mapping[str, Session],
    x_BCHW: Tensor,
    *,
    onnx_path: Path | None = None,
    limit: float = 1e-4,
) -> Parity:
    """Compare sessions with torch on one batch.

    Args:
        model: The reference, run by torch.
        sessions: What is compared, by name.
        x_BCHW: Preprocessed inputs.
        onnx_path: The float file behind the sessions; with it, a difference is traced to a layer.
        limit: Difference above which the layer is looked for.
    """
    if not sessions:
        raise ValueError("parity needs at least one session to compare with torch.")
    expected_BC = model(x_BCHW).float().numpy()
    x = np.ascontiguousarray(x_BCHW.numpy(), dtype=np.float32)
    found = max((_difference(name, s.infer(x), expected_BC) for name, s in sessions.items()), key=lambda p: p.max_abs)
    if onnx_path is None or found.is_within(limit):
        return found
    return replace(found, first_layer_that_differs=first_layer_that_differs(model, onnx_path, x_BCHW, limit=limit))


def first_layer_that_differs(model: Model, onnx_path: Path, x_BCHW: Tensor, *, limit: float = 1e-4) -> str | None:
    """Return the path of the first module, in order of execution, whose output the ONNX graph does not have.

    Modules and nodes are matched by value and not by name, so that it works for every exporter. A convolution
    that the exporter folded into the batch norm behind it has no output of its own and is passed over.

    Args:
        model: The reference.
        onnx_path: A float ONNX file of it.
        x_BCHW: Inputs; the first two are used.
        limit: Largest difference that counts as equal, relative to the largest output above 1.

    Returns:
        None when every module's output is there.
    """
    taps = _module_outputs(model.module, x_BCHW[:2])
    nodes = _node_outputs(onnx_path, x_BCHW[:2].numpy())
    is_there = [any(_is_close(value, node, limit) for node in nodes.get(value.shape, [])) for _, _, value in taps]
    for position, (name, module, _) in enumerate(taps):
        if is_there[position]:
            continue
        behind = taps[position + 1][1] if position + 1 < len(taps) else None
        is_folded = isinstance(behind, _NormBase) and is_there[position + 1] and hasattr(module, "weight")
        if not is_folded:
            return name
    return None


def _difference(name: str, logits_BC: NDArray[np.float32], expected_BC: NDArray[np.float32]) -> Parity:
    found = agreement(expected_BC, logits_BC)
    return Parity(found.max_abs, found.top1_agree, name, float(np.abs(expected_BC).max()))


def _is_close(value: NDArray[Any], other: NDArray[Any], limit: float) -> bool:
    return bool(np.abs(value - other).max(initial=0) <= limit * max(1.0, float(np.abs(value).max(initial=0))))


def _module_outputs(module: nn.Module, x_BCHW: Tensor) -> list[tuple[str, nn.Module, NDArray[Any]]]:
    """Return (path, module, output) of every module without children, in order of execution."""
    taps: list[tuple[str, nn.Module, NDArray[Any]]] = []

    def tap(name: str) -> Any:
        def hook(this: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                taps.append((name, this, output.detach().clone().numpy()))

        return hook

    leaves = [(name, leaf) for name, leaf in module.named_modules() if not any(leaf.children())]
    hooks = [leaf.register_forward_hook(tap(name)) for name, leaf in leaves]
    try:
        with torch.inference_mode():
            module.eval()(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return taps


def _node_outputs(onnx_path: Path, x_BCHW: NDArray[Any]) -> dict[tuple[int, ...], list[NDArray[Any]]]:
    """Return the outputs of all nodes of the graph, by shape."""
    import onnx

    from deploy.runtime.onnxruntime import session_from_bytes

    graph = onnx.load(str(onnx_path))
    known = {output.name for output in graph.graph.output}
    inner = [name for node in graph.graph.node for name in node.output if name and name not in known]
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    session = session_from_bytes(graph.SerializeToString(), is_optimized=False)
    found: dict[tuple[int, ...], list[NDArray[Any]]] = {}
    for value in session.run(None, {session.get_inputs()[0].name: x_BCHW}):
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            found.setdefault(value.shape, []).append(value)
    return found
