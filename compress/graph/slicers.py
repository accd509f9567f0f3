"""How each type of layer loses channels: one small function a type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

Kept = Sequence[int] | None
#: (layer, positions kept on the out axis, on the in axis) -> the smaller layer, which may be the same object.
Slicer = Callable[[Any, Kept, Kept], nn.Module]

SLICERS: dict[type[nn.Module], Slicer] = {}


def slices(*types: type[nn.Module]) -> Callable[[Slicer], Slicer]:
    """Register the decorated function for `types` and their subclasses."""

    def decorate(function: Slicer) -> Slicer:
        SLICERS.update(dict.fromkeys(types, function))
        return function

    return decorate


def slices_itself(layer: nn.Module) -> bool:
    """Return whether `layer` brings its own `keep_out` and `keep_in`, and so decouples its input from its output."""
    return callable(getattr(layer, "keep_out", None)) and callable(getattr(layer, "keep_in", None))


def slicer_of(layer: nn.Module) -> Slicer | None:
    """Return the slicer of a layer's type or of the nearest base type, or None."""
    if slices_itself(layer):
        return _self_slicing
    return next((SLICERS[base] for base in type(layer).__mro__ if base in SLICERS), None)


def axis_size(layer: nn.Module, axis: str) -> int:
    """Return the number of channels of `layer` on `axis`.

    Raises:
        ValueError: For a type of layer that cannot be cut.
    """
    names = {
        "out": ("out_channels", "out_features", "num_features", "num_channels", "num_parameters"),
        "in": ("in_channels", "in_features"),
    }
    if isinstance(layer, nn.LayerNorm):
        return int(layer.normalized_shape[-1])
    for name in names[axis]:
        if hasattr(layer, name):
            return int(getattr(layer, name))
    raise ValueError(f"{type(layer).__name__} has no {axis!r} axis that can be cut.")


def is_depthwise(layer: nn.Module) -> bool:
    """Return whether `layer` filters each channel by itself."""
    return isinstance(layer, _ConvNd) and 1 < layer.groups == layer.in_channels == layer.out_channels


def _select(layer: nn.Module, name: str, kept: Kept, dim: int) -> None:
    """Replace the parameter or buffer `name` by its `kept` part along `dim`."""
    old = getattr(layer, name)
    if old is None or kept is None:
        return
    new = old.detach().index_select(dim, torch.tensor(kept, device=old.device)).clone()
    setattr(layer, name, nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new)


@slices(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def _conv(layer: _ConvNd, out: Kept, in_: Kept) -> nn.Module:
    """Weights are (D, C, …), transposed (C, D, …); a depthwise one loses whole filters and has no in axis."""
    if is_depthwise(layer):
        if in_ is not None:
            raise ValueError("a depthwise convolution is cut by its out axis alone.")
        assert out is not None
        _select(layer, "weight", out, 0)
        layer.in_channels = layer.groups = len(out)
    elif layer.groups > 1:
        raise ValueError(f"a convolution with {layer.groups} groups of channels cannot be cut; leave it out.")
    else:
        _select(layer, "weight", out, 1 if layer.transposed else 0)
        _select(layer, "weight", in_, 0 if layer.transposed else 1)
        layer.in_channels = layer.in_channels if in_ is None else len(in_)
    if out is not None:
        _select(layer, "bias", out, 0)
        layer.out_channels = len(out)
    return layer


@slices(nn.Linear)
def _linear(layer: nn.Linear, out: Kept, in_: Kept) -> nn.Module:
    _select(layer, "weight", out, 0)
    _select(layer, "bias", out, 0)
    _select(layer, "weight", in_, 1)
    layer.out_features, layer.in_features = layer.weight.shape
    return layer


@slices(_NormBase)
def _batch_norm(layer: _NormBase, out: Kept, in_: Kept) -> nn.Module:
    _one_axis(layer, out, in_)
    for name in ("weight", "bias", "running_mean", "running_var"):
        _select(layer, name, out, 0)
    layer.num_features = layer.num_features if out is None else len(out)
    return layer


@slices(nn.LayerNorm)
def _layer_norm(layer: nn.LayerNorm, out: Kept, in_: Kept) -> nn.Module:
    _one_axis(layer, out, in_)
    if len(layer.normalized_shape) != 1:
        raise ValueError(f"a LayerNorm over {tuple(layer.normalized_shape)} cannot be cut; one over channels can.")
    _select(layer, "weight", out, 0)
    _select(layer, "bias", out, 0)
    layer.normalized_shape = layer.normalized_shape if out is None else (len(out),)
    return layer


@slices(nn.PReLU)
def _prelu(layer: nn.PReLU, out: Kept, in_: Kept) -> nn.Module:
    _one_axis(layer, out, in_)
    _select(layer, "weight", out, 0)
    layer.num_parameters = layer.num_parameters if out is None else len(out)
    return layer


def _self_slicing(layer: Any, out: Kept, in_: Kept) -> nn.Module:
    """Ask the layer: `keep_in` and `keep_out` return new layers."""
    layer = layer if in_ is None else layer.keep_in(list(in_))
    return layer if out is None else layer.keep_out(list(out))


def _one_axis(layer: nn.Module, out: Kept, in_: Kept) -> None:
    if in_ is not None or out is None:
        raise ValueError(f"{type(layer).__name__} does not mix channels: it is cut by its out axis alone.")


def zero(layer: nn.Module, axis: str, positions: Tensor) -> None:
    """Set the weights (and on the out axis the biases) at `positions` to 0, in place."""
    if slices_itself(layer):
        if axis == "in":
            layer.register_forward_pre_hook(lambda _, args: (args[0].index_fill(1, positions, 0.0), *args[1:]))
        return
    weight = getattr(layer, "weight", None)
    is_transposed = isinstance(layer, _ConvNd) and layer.transposed and not is_depthwise(layer)
    with torch.no_grad():
        if weight is not None:
            weight.index_fill_(int((axis == "in") != is_transposed), positions, 0.0)
        if axis == "out" and getattr(layer, "bias", None) is not None:
            layer.bias.index_fill_(0, positions, 0.0)  # type: ignore[operator]
