"""Channels put into order of size; what the network computes stays the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compress.core.model import Model
from compress.graph.renaming import is_renamable, renamed
from compress.graph.units import ChannelGroup
from compress.prune.live_groups import LiveGroups


def largest_first(model: Model, groups: Sequence[ChannelGroup]) -> Model:
    """Return a copy whose channels stand by the length of their weights, the longest first; its outputs are the same.

    Args:
        model: Not changed.
        groups: Groups of it. Those whose order is part of the structure, and those that nothing with weights makes,
            stay as they are.
    """
    module = model.module
    for group in groups:
        live = LiveGroups(module, (group,)).of(module)
        if live and is_renamable(module, group):
            order_C = torch.sort(live[0].norms().detach(), descending=True, stable=True).indices
            module = renamed(module, group, order_C.tolist())
    return model.copy() if module is model.module else Model(module, model.input, model.lineage)
