"""Channels whose removal hardly moves the loss are worth little."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA


@CRITERIA.register("taylor", paper="Molchanov 2019", needs=("gate",), idea="C9", scores_blocks=True)
def taylor(group: GroupStats) -> Tensor:
    """Score a channel by the squared first-order change of the loss when it is removed.

    s_c = mean over batches of (Σ_readers ∂L/∂g_c)² for a factor g_c on the channel as its readers see it: Σ_k w_ck ·
    ∂L/∂w_ck for a reader with weights, Σ_BHW x_c · ∂L/∂x_c for one without (a shortcut that pads). Setting g_c
    to 0 in front of every reader is the same as cutting the channel, but for readers that mix without weights and
    are cut along with it (LayerNorm).

    Args:
        group: Gates (N, C) of each layer that reads the channel, for N batches. For blocks the gate is a factor on what
            the block adds to its input.

    Returns:
        scores_C >= 0.

    Differs from the paper: one gate for a channel that several layers share, instead of summing the scores of one
    gate a layer; the gate stands in front of the readers instead of behind the batch norm, which is the same
    for a channel with one reader. Not averaged over the steps of a fine-tuning.

    Cost: one forward and backward pass a batch.

    Reference: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equations 8 and 9.

    Two batches, one reader: (1² + 3²) / 2 = 5 and (0² + 2²) / 2 = 2:

    >>> from compress.graph.stats import Part
    >>> reader = Part("b", "in", False, torch.tensor([[1.0, 0.0], [-3.0, 2.0]]))
    >>> taylor(GroupStats("a", 2, {"gate": [reader]}))
    tensor([5., 2.])
    """
    readers = [part for part in group.gate_parts if part.axis == "in"] or list(group.gate_parts)
    gates_NC = torch.stack([part.values for part in readers]).sum(0)
    return gates_NC.square().mean(0)
