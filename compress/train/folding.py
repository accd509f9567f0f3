"""Batch norm folded into the convolution before it: the weights that an exported network really has."""

from __future__ import annotations

import copy
import warnings
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

_FOUND: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()


def norm_after(module: nn.Module) -> dict[str, str]:
    """Return the path of the batch norm that alone reads each convolution or linear layer.

    Found by a symbolic trace, once a module. Layers whose output goes elsewhere as well are left
    out, as are norms without running statistics and all layers of a network that cannot be traced (a warning says so).
    """
    if module not in _FOUND:
        try:
            graph = fx.Tracer().trace(module)
        except Exception as error:
            warnings.warn(f"no batch norm is folded, the network cannot be traced: {error}", stacklevel=2)
            _FOUND[module] = {}
        else:
            _FOUND[module] = _pairs_in(graph, dict(module.named_modules()))
    return _FOUND[module]


def _pairs_in(graph: fx.Graph, parts: dict[str, nn.Module]) -> dict[str, str]:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    num_calls = {path: sum(node.target == path for node in calls) for path in {str(node.target) for node in calls}}
    pairs = {}
    for node in calls:
        readers = list(node.users)
        if not isinstance(parts[str(node.target)], nn.Conv2d | nn.Linear) or len(readers) != 1:
            continue
        path, reader = str(node.target), readers[0]
        norm = parts[str(reader.target)] if reader.op == "call_module" else None
        has_fixed_scale = isinstance(norm, _BatchNorm) and norm.running_var is not None
        if has_fixed_scale and num_calls[path] == num_calls[str(reader.target)] == 1:
            pairs[path] = str(reader.target)
    return pairs


def scale_of(norm: nn.Module) -> Tensor:
    """Return γ / sqrt(running variance + ε) of a batch norm, shape (C,)."""
    assert isinstance(norm, _BatchNorm)
    assert norm.running_var is not None
    spread_C = torch.rsqrt(norm.running_var + norm.eps)
    return spread_C if norm.weight is None else norm.weight * spread_C


def folded_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the weight of every convolution and linear layer, times the scale of the batch norm behind it.

    Gradients reach the weights and the scales.
    """
    pairs, parts = norm_after(module), dict(module.named_modules())
    weights: dict[str, Tensor] = {}
    for path, part in parts.items():
        if isinstance(part, nn.Conv2d | nn.Linear):
            weights[path] = part.weight
            if path in pairs:
                scale_C = scale_of(parts[pairs[path]])
                weights[path] = part.weight * scale_C.view(-1, *[1] * (part.weight.ndim - 1))
    return weights


def folded(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode without the batch norms that can be merged; same outputs up to rounding."""
    pairs = dict(norm_after(module))
    merged = copy.deepcopy(module).eval()
    parts = dict(merged.named_modules())
    for path, norm_path in pairs.items():
        part, norm = parts[path], parts[norm_path]
        assert isinstance(part, nn.Conv2d | nn.Linear)
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        scale_C = scale_of(norm).detach()
        old_bias_C = torch.zeros_like(scale_C) if part.bias is None else part.bias.detach()
        shift_C = torch.zeros_like(scale_C) if norm.bias is None else norm.bias.detach()
        weight = part.weight.detach() * scale_C.view(-1, *[1] * (part.weight.ndim - 1))
        part.weight = nn.Parameter(weight)
        part.bias = nn.Parameter((old_bias_C - norm.running_mean) * scale_C + shift_C)
        parent, _, name = norm_path.rpartition(".")
        setattr(merged.get_submodule(parent), name, nn.Identity())
    return merged
