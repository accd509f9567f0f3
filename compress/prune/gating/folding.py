"""Gates that do not look at their input, folded into the weights that read the channels."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from compress.graph.places import Place
from compress.graph.units import ChannelGroup
from compress.prune.gating.attended import Attention
from compress.prune.gating.placement import scaled_weight


def fold(
    module: nn.Module,
    groups: tuple[ChannelGroup, ...],
    attention: Mapping[str, Attention],
    *,
    largest_spread: float = 0.05,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy of the network with the mean gates in its weights, and the names of the groups it was done for.

    w_c ← E[s_c] · w_c for every weight that reads channel c: exactly the network with gates s = E[s] in front of its
    readers. Left as they are: groups with a gate whose standard deviation over inputs exceeds `largest_spread`, and
    groups with a reader that has no weight (a shortcut that pads).

    Args:
        module: The network; not changed.
        groups: Its groups.
        attention: What the gates say, by name of the group.
        largest_spread: At most so much may a gate look at its input.
    """
    copied = copy.deepcopy(module)
    folded = []
    for group in groups:
        readers = [place for m in group.members if (place := Place(copied, group.name, m)).reads]
        known = attention.get(group.name)
        if known is None or known.spread_C.max() > largest_spread or not readers:
            continue
        if any(place.weight is None for place in readers):
            continue
        folded.append(group.name)
        for place in readers:
            assert place.weight is not None
            with torch.no_grad():
                place.weight.copy_(scaled_weight(place, place.weight, known.mean_NC.mean(0)))
    return copied, tuple(folded)
