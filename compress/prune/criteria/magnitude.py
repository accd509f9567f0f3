"""Channels with small weights are worth little."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA


@CRITERIA.register("magnitude", paper="Li 2017", needs=("weight",), idea="C9")
def magnitude(group: GroupStats, *, p: float = 2.0) -> Tensor:
    """Score a channel by the size of the weights that produce, scale and read it.

    s_c = mean over parts of Σ_k |w_ck|^p, where a part is one layer's kernel or norm scale.

    Args:
        group: Weights (C, K) of every layer that the channel touches.
        p: Exponent above 0; 1 and 2 are usual.

    Returns:
        scores_C >= 0.

    Differs from the paper: it sums |w| of the producing filter alone; here the kernels that read the channel and
    the scales of its norms count too, as Torch-Pruning has it, so that coupled layers have one score.

    Cost: one look at the weights; no data.

    Reference: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1.

    Two parts, p = 1: (|1| + |-2| + |3|) / 2 = 3 and (0 + 1 + 0) / 2 = 0.5:

    >>> from compress.graph.stats import Part
    >>> kernel = Part("a", "out", False, torch.tensor([[1.0, -2.0], [0.0, 1.0]]))
    >>> reader = Part("b", "in", False, torch.tensor([[3.0], [0.0]]))
    >>> magnitude(GroupStats("a", 2, {"weight": [kernel, reader]}), p=1)
    tensor([3.0000, 0.5000])
    """
    if not p > 0:
        raise ValueError(f"p={p!r}: the exponent must be above 0; 1 and 2 are usual.")
    return torch.stack([part.values.abs().pow(p).sum(1) for part in group.weight_parts]).mean(0)
