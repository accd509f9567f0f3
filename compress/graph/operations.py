"""Run a network and let every operation have its rule (see `tracing`).

Operations are those of ATen, as they reach a kernel; a handful of functions whose weights cannot be recognised there
are met before that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compress.graph import movements  # its rules are registered
from compress.graph.calls import FUNCTIONS, RULES, Call
from compress.graph.products import pointwise
from compress.graph.tracing import Trace

__all__ = ["movements", "run"]


def run(trace: Trace, x_BCHW: Tensor) -> None:
    """Run the network of a trace once and note what hangs together."""
    with torch.no_grad(), trace.watching(), _Functions(trace), _Operations(trace):
        output = trace.module(x_BCHW)
    trace.outputs = [labels for leaf in tree_leaves(output) if (labels := trace.labels(leaf)) is not None]


class _Operations(TorchDispatchMode):
    """Runs every operation and the rule for it."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = Call(self._trace, function, args, kwargs or {}, function(*args, **(kwargs or {})))
        if self._trace.is_paused:
            return call.output
        is_known = call.name == "convolution" or any(
            self._trace.labels(leaf) is not None for leaf in tree_leaves((args, kwargs))
        )
        if is_known:
            rule = RULES.get(call.name, pointwise if torch.Tag.pointwise in function.tags else None)
            if rule is None:
                call.refuse(f"the operation {call.name}")
            else:
                rule(call)
        return call.output


class _Functions(TorchFunctionMode):
    """Runs the functions in FUNCTIONS as one operation each."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule, kwargs = FUNCTIONS.get(function), kwargs or {}
        if rule is None or self._trace.is_paused:
            return function(*args, **kwargs)
        with self._trace.paused():
            output = function(*args, **kwargs)
            rule(Call(self._trace, function, args, kwargs, output))
        return output
