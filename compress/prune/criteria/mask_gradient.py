"""Channels on whose mask the loss does not pull are worth little."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA


@CRITERIA.register("mask_gradient", paper="Lee 2019", needs=("gate",), idea="C8", scores_blocks=True)
def mask_gradient(group: GroupStats) -> Tensor:
    """Score a channel by the size of the mean slope of the loss towards its mask.

    s_c = |mean over batches of Σ_readers ∂L/∂g_c| for a factor g_c on the channel as its readers see it.

    Args:
        group: Gates (N, C) of each layer that reads the channel, for N batches. For blocks the gate is a factor on what
            the block adds to its input.

    Returns:
        scores_C >= 0.

    Differs from the paper: one mask a channel instead of one a weight; taken of a trained network, not before training.
    Against `taylor` the mean comes before the size: slopes of opposite sign cancel.

    Cost: one forward and backward pass a batch.

    Reference: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019,
    section 4.

    Two batches: |1 - 3| / 2 and |0 + 2| / 2:

    >>> from compress.graph.stats import Part
    >>> reader = Part("b", "in", False, torch.tensor([[1.0, 0.0], [-3.0, 2.0]]))
    >>> mask_gradient(GroupStats("a", 2, {"gate": [reader]}))
    tensor([1., 1.])
    """
    readers = [part for part in group.gate_parts if part.axis == "in"] or list(group.gate_parts)
    return torch.stack([part.values for part in readers]).sum(0).mean(0).abs()
