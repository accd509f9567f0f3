"""Channels of a group put into another order; what the network computes stays the same."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.conv import _ConvNd

from compress.graph.conversion import replace_at
from compress.graph.slicers import is_depthwise, slicer_of, slices_itself
from compress.graph.units import Axis, ChannelGroup, Member


def is_renamable(module: nn.Module, group: ChannelGroup) -> bool:
    """Return whether an order of the group's channels is a matter of its layers' weights alone.

    It is not where a table is part of the structure (a shortcut that pads) or channels stand in groups.
    """
    layers = [module.get_submodule(member.path) for member in group.members]
    in_groups = [isinstance(layer, _ConvNd) and layer.groups > 1 and not is_depthwise(layer) for layer in layers]
    return not any(in_groups) and not any(slices_itself(layer) or slicer_of(layer) is None for layer in layers)


def group_on(groups: Sequence[ChannelGroup], path: str, axis: Axis) -> tuple[ChannelGroup, Member] | None:
    """Return the group that owns all channels on an axis of a layer, each at one position, and its member there."""
    for group in groups:
        for member in group.members:
            if (member.path, member.axis) == (path, axis):
                return (group, member) if member.size == group.num_channels else None
    return None


def renamed(module: nn.Module, group: ChannelGroup, order: Sequence[int]) -> nn.Module:
    """Return a copy in which channel c of the group is what channel order[c] was. Its outputs are the same.

    Args:
        module: The network.
        group: A group of it for which `is_renamable` holds.
        order: A permutation of its channels.
    """
    assert sorted(order) == list(range(group.num_channels))
    new = copy.deepcopy(module)
    for member in group.members:
        positions = list(range(member.size))
        for here, there in zip(member.index, (member.index[c] for c in order), strict=True):
            for k, position in zip(here, there, strict=True):
                positions[k] = position
        layer = new.get_submodule(member.path)
        slicer = slicer_of(layer)
        assert slicer is not None
        sides = (positions, None) if member.axis == "out" else (None, positions)
        replace_at(new, member.path, slicer(layer, *sides))
    return new
