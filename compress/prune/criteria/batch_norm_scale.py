"""Channels that their norm scales down are worth little."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA, neutral


@CRITERIA.register("batch_norm_scale", paper="Liu 2017", needs=("weight",), idea="C9")
def batch_norm_scale(group: GroupStats, *, weighs_readers: bool = False) -> Tensor:
    """Score a channel by the scale that its norms give it.

    s_c = mean over norms of |γ_c|, times mean over readers of ‖w_c‖₂ if `weighs_readers`.

    Args:
        group: Norm scales (C, 1), and the kernels (C, K) that read the channel.
        weighs_readers: Whether the readers' kernels count. A scale can be moved from γ into the next layer without
            changing the network; the product does not move.

    Returns:
        scores_C >= 0; 1 for every channel, and a warning, where no norm scales the channels.

    Differs from the paper: the mean over all norms of channels that several layers share. Trained without the paper's
    penalty on |γ| the scales say less; that penalty is an objective of its own.

    Cost: one look at the weights; no data.

    Reference: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, section 3.

    Scales 0.5 and -2, a reader with kernels of norm 5 and 1:

    >>> from compress.graph.stats import Part
    >>> norm = Part("bn", "out", True, torch.tensor([[0.5], [-2.0]]))
    >>> reader = Part("b", "in", False, torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    >>> stats = GroupStats("a", 2, {"weight": [norm, reader]})
    >>> batch_norm_scale(stats), batch_norm_scale(stats, weighs_readers=True)
    (tensor([0.5000, 2.0000]), tensor([2.5000, 2.0000]))
    """
    norms = [part.values.abs().mean(1) for part in group.weight_parts if part.is_norm]
    readers = [part.values.norm(dim=1) for part in group.weight_parts if part.axis == "in"]
    if not norms:
        return neutral(group, "no norm scales them")
    scores_C = torch.stack(norms).mean(0)
    return scores_C * torch.stack(readers).mean(0) if weighs_readers and readers else scores_C
