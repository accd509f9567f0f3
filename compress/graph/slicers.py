"""How each type of layer loses channels: one small function a type."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

Kept = Sequence[int] | None
#: (layer, positions kept on the out axis, on the in axis) -> the smaller layer, which may be the same object with new
#: tensors. It must not write into the old ones: another copy of the network may have them too.
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


def parameter_axis(axis: str) -> tuple[str, int] | None:
    """Return name and dimension of the parameter that an axis of the form "name.dimension" means, else None.

    >>> parameter_axis("layer_scale.0"), parameter_axis("out")
    (('layer_scale', 0), None)
    """
    name, dot, dim = axis.partition(".")
    return (name, int(dim)) if dot and dim.isdecimal() else None


def axis_size(layer: nn.Module, axis: str) -> int:
    """Return the number of channels of `layer` on `axis`.

    Raises:
        ValueError: For a type of layer, or a parameter, that cannot be cut so.
    """
    if (own := parameter_axis(axis)) is not None:
        parameter = layer._parameters.get(own[0])
        if parameter is None or own[1] >= parameter.ndim:
            raise ValueError(f"{type(layer).__name__} has no parameter {own[0]} with a dimension {own[1]}.")
        return parameter.shape[own[1]]
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


def same_of_each(layer: nn.Module) -> int:
    """Return into how many equal parts the channels of `layer` fall that must all lose the same channels; 1 for most.

    >>> same_of_each(nn.Conv2d(8, 16, 1, groups=4)), same_of_each(nn.Conv2d(8, 8, 1, groups=8))
    (4, 1)
    """
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    return layer.groups if isinstance(layer, _ConvNd) and not is_depthwise(layer) else 1


def channel_dim(layer: nn.Module) -> int:
    """Return the dimension of a norm's input on which its channels lie: the last for LayerNorm, else the second."""
    is_last = isinstance(layer, nn.LayerNorm) and not any("2d" in base.__name__ for base in type(layer).__mro__)
    return -1 if is_last else 1


def _select(layer: nn.Module, name: str, kept: Kept, dim: int) -> None:
    """Replace the parameter or buffer `name` by its `kept` part along `dim`."""
    old = getattr(layer, name)
    if old is None or kept is None:
        return
    new = old.detach().index_select(dim, torch.tensor(kept, device=old.device))
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
        _select_grouped(layer, out, in_)
    else:
        _select(layer, "weight", out, 1 if layer.transposed else 0)
        _select(layer, "weight", in_, 0 if layer.transposed else 1)
        layer.in_channels = layer.in_channels if in_ is None else len(in_)
    if out is not None:
        _select(layer, "bias", out, 0)
        layer.out_channels = len(out)
    return layer


def _select_grouped(layer: _ConvNd, out: Kept, in_: Kept) -> None:
    """Each group of a convolution keeps as many channels as every other; its kernels (D, C / groups, …) stay whole."""
    if layer.transposed:
        raise ValueError(f"a transposed convolution with {layer.groups} groups cannot be cut; leave it out.")
    if in_ is not None:
        kept_GC = torch.tensor(_by_group(layer.groups, layer.in_channels, in_)).to(layer.weight.device)
        old = layer.weight.detach().unflatten(0, (layer.groups, -1))
        new = torch.stack([kernel.index_select(1, kept_C) for kernel, kept_C in zip(old, kept_GC, strict=True)])
        layer.weight = nn.Parameter(new.flatten(0, 1), requires_grad=layer.weight.requires_grad)
        layer.in_channels = len(in_)
    if out is not None:
        _by_group(layer.groups, layer.out_channels, out)
        _select(layer, "weight", out, 0)


def _by_group(groups: int, size: int, kept: Sequence[int]) -> list[list[int]]:
    """Return the positions kept of each group, counted from its first channel.

    >>> _by_group(2, 8, [0, 3, 5, 6])
    [[0, 3], [1, 2]]
    """
    width = size // groups
    found = [[k - g * width for k in kept if k // width == g] for g in range(groups)]
    if len({len(own) for own in found}) > 1:
        raise ValueError(f"each of {groups} groups must keep as many channels, not {[len(own) for own in found]}.")
    return found


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


@slices(nn.GroupNorm)
def _group_norm(layer: nn.GroupNorm, out: Kept, in_: Kept) -> nn.Module:
    _one_axis(layer, out, in_)
    if out is not None:
        _by_group(layer.num_groups, layer.num_channels, out)
        _select(layer, "weight", out, 0)
        _select(layer, "bias", out, 0)
        layer.num_channels = len(out)
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


def sliced(layer: nn.Module, axes: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return `layer` with only the positions kept on each of `axes`; it may be the same object.

    Raises:
        ValueError: It cannot be cut so.
    """
    for axis, kept in axes.items():
        if (own := parameter_axis(axis)) is not None:
            _select(layer, own[0], kept, own[1])
    if "out" in axes or "in" in axes:
        slicer = slicer_of(layer)
        assert slicer is not None
        layer = slicer(layer, axes.get("out"), axes.get("in"))
    return layer


def zero(layer: nn.Module, axis: str, positions: Tensor) -> None:
    """Let a layer behave as if `positions` of an axis were gone, in place: weights, and on the way out biases, are 0.

    A norm over channels leaves them out of its statistics.
    """
    if (own := parameter_axis(axis)) is not None:
        parameter = layer.get_parameter(own[0])
        with torch.no_grad():
            parameter.index_fill_(own[1], positions.to(parameter.device), 0.0)
    elif slices_itself(layer):
        if axis == "in":
            layer.register_forward_pre_hook(
                lambda _, args: (args[0].index_fill(1, positions.to(args[0].device), 0.0), *args[1:])
            )
    elif isinstance(layer, nn.LayerNorm | nn.GroupNorm):
        _normalize_without(layer, positions)
    else:
        _zero_weights(layer, axis, positions)


def _zero_weights(layer: nn.Module, axis: str, positions: Tensor) -> None:
    weight = getattr(layer, "weight", None)
    with torch.no_grad():
        if axis == "in" and isinstance(layer, _ConvNd) and layer.groups > 1:
            assert weight is not None
            width = layer.in_channels // layer.groups
            for position in positions.tolist():
                weight.unflatten(0, (layer.groups, -1))[position // width, :, position % width] = 0.0
        elif weight is not None:
            is_transposed = isinstance(layer, _ConvNd) and layer.transposed and not is_depthwise(layer)
            weight.index_fill_(int((axis == "in") != is_transposed), positions.to(weight.device), 0.0)
        if axis == "out" and isinstance(bias := getattr(layer, "bias", None), nn.Parameter):
            bias.index_fill_(0, positions.to(bias.device), 0.0)


def _normalize_without(layer: nn.LayerNorm | nn.GroupNorm, positions: Tensor) -> None:
    """Make a norm hand on zeros at `positions` and normalize the other channels as the smaller norm would."""
    gone = set(positions.tolist())
    kept = [k for k in range(axis_size(layer, "out")) if k not in gone]
    smaller, dim = sliced(copy.deepcopy(layer), {"out": kept}), channel_dim(layer)

    def without(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        index = torch.tensor(kept, device=output.device)
        return torch.zeros_like(output).index_copy(dim, index, smaller(args[0].index_select(dim, index)))

    layer.register_forward_hook(without)
