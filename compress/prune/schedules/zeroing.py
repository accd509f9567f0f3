"""Channels and blocks switched off without a cut, in such a way that training can bring them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from compress.core.model import Model
from compress.graph.dependencies import is_producer
from compress.graph.places import Place
from compress.graph.slicers import axis_size, is_depthwise, slices_itself, zero
from compress.graph.units import ChannelGroup, is_inside, kept_masks
from compress.prune.schedules.family import Choice

#: What is left of a channel that something without weights reads (a shortcut that pads).
FAINT = 1e-3


def zeroed(model: Model, choice: Choice) -> Model:
    """Return a copy of the same structure in which what would be cut carries nothing.

    Its answers are those of the cut network. A channel is switched off where it is read: the weights of its readers
    become 0, its own kernel stays. (With its kernel and the norm's bias at 0 it would carry nothing either, but then
    the ReLU behind it has the slope 0, and no gradient could ever bring it back.) Where something without
    weights reads it, the norms that it passes, or its kernels without a norm, shrink to `FAINT` as well. A block is
    switched off where it is added: the last norm of its branch, or the last kernels without one, become 0.

    Exceptions: norms over channels (LayerNorm, GroupNorm) still see the channel; where the channels around a block are
    no group, only the last layer of the block is switched off.

    Args:
        model: Not changed.
        choice: Of this model.
    """
    if choice.keeps_all:
        return model
    copied = model.copy()
    module, masks = copied.module, kept_masks(choice.groups, choice.kept)
    with torch.no_grad():
        for group in choice.groups:
            gone_C = ~masks[group.name]
            if gone_C.any():
                _switch_off(module, group, gone_C, choice.dropped)
        for block in choice.dropped:
            for path in branch_ends(module, choice.groups, block):
                _scale(module.get_submodule(path), 0.0)
    return copied


def taken(before: Model, after: Model) -> dict[str, torch.Tensor]:
    """Return what `after`, which `zeroed` made of `before`, lacks of its weights, by name."""
    if before is after:
        return {}
    left = dict(after.module.named_parameters())
    lacks = {name: (value - left[name]).detach() for name, value in before.module.named_parameters()}
    return {name: value for name, value in lacks.items() if value.any()}


def given_back(model: Model, weights: Mapping[str, torch.Tensor]) -> Model:
    """Return a copy to whose weights, as training left them, those that were `taken` are added again."""
    if not weights:
        return model
    copied = model.copy()
    parameters = dict(copied.module.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].add_(value)
    return copied


def branch_ends(module: nn.Module, groups: tuple[ChannelGroup, ...], block: str) -> tuple[str, ...]:
    """Return the layers of a residual block whose weights decide what it adds: with all at 0 it adds nothing.

    They are the batch norms behind the layers that make the channels which also exist outside the block, or
    those layers themselves where no batch norm follows; without such a group the last layer with weights.
    """
    ends: list[str] = []
    for group in groups:
        made = [m.path for m in group.members if m.axis == "out" and is_producer(module.get_submodule(m.path))]
        inside = [path for path in made if is_inside(path, [block])]
        if inside and len(inside) < len(made):
            own = [m.path for m in group.members if m.axis == "out" and is_inside(m.path, [block])]
            behind = own[own.index(inside[0]) :]
            norms = [path for path in behind if isinstance(module.get_submodule(path), _NormBase)]
            ends += [path for path in norms or inside if path not in ends]
    if ends:
        return tuple(ends)
    layers = [path for path, layer in module.named_modules() if is_inside(path, [block]) and _has_weight(layer)]
    return tuple(layers[-1:])


def _has_weight(layer: nn.Module) -> bool:
    return isinstance(layer, _NormBase | _ConvNd | nn.Linear) and isinstance(layer.weight, nn.Parameter)


def _switch_off(module: nn.Module, group: ChannelGroup, gone_C: torch.Tensor, dropped: Sequence[str]) -> None:
    members = [member for member in group.members if not is_inside(member.path, list(dropped))]
    places = [Place(module, group.name, member) for member in members]
    for place in places:
        if place.reads and not slices_itself(place.layer):
            zero(place.layer, place.member.axis, torch.tensor(place.member.positions(gone_C)))
    if not any(place.reads and slices_itself(place.layer) for place in places):
        return
    made = [place for place in places if place.member.axis == "out" and _has_weight(place.layer)]
    norms = [place for place in made if isinstance(place.layer, _NormBase)]
    for place in norms or made:
        _scale(place.layer, FAINT, place.member.positions(gone_C))


def _scale(layer: nn.Module, factor: float, positions: list[int] | None = None) -> None:
    """Multiply weights and biases on the out axis by `factor`, at `positions` or everywhere."""
    size = axis_size(layer, "out")
    factors_D = torch.ones(size)
    factors_D[list(range(size)) if positions is None else positions] = factor
    dim = int(isinstance(layer, _ConvNd) and layer.transposed and not is_depthwise(layer))
    for value in (layer.weight, layer.bias):
        if isinstance(value, nn.Parameter):
            shape = [-1 if k == (dim if value.ndim > 1 else 0) else 1 for k in range(value.ndim)]
            value.mul_(factors_D.to(value).view(shape))
