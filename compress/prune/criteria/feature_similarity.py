"""Channels that follow another one can be replaced by it."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import GroupStats, Moments
from compress.prune.criteria.family import CRITERIA, neutral

#: Channels with this part of the largest variance, or less, are constants and rounding.
CONSTANT = 1e-10


@CRITERIA.register("feature_similarity", paper="Sui 2021", needs=("moment",), idea="C3")
def feature_similarity(group: GroupStats, *, size: float = 0.0) -> Tensor:
    """Score a channel by the part of its variation that no stronger channel explains.

    s_c = mean over readers of min_j (1 - corr(x_c, x_j)²) · (var(x_c) / mean var)^size over channels j with more
    variance. It is the relative error that the compensation "twin" leaves. The strongest channel has 1.

    Args:
        group: Means and covariances of the channels as each layer reads them, behind norm and activation.
        size: How much a channel's own variance counts; 1 gives the error itself instead of its relative size.

    Returns:
        scores_C >= 0; in [0, 1] for size 0. Channels that never change have 0.

    Differs from the paper: the squared correlation with one other channel instead of the change of the nuclear norm
    when a map is left out, which any linear mix of channels can make small; every place of a map counts.

    Cost: one forward pass, and C² multiply-adds for each place of a map.

    Reference: Sui et al., "CHIP: Channel Independence-based Pruning for Compact Neural Networks", NeurIPS 2021,
    whose question it asks of pairs.

    Channel 1 is half of channel 0, channel 2 by itself, channel 3 constant:

    >>> covariance_CC = torch.tensor([[4.0, 2, 0, 0], [2, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0]])
    >>> moments = Moments("b", 9, torch.zeros(4), covariance_CC)
    >>> feature_similarity(GroupStats("a", 4, {"moment": [moments]}))
    tensor([1., 0., 1., 0.])
    """
    if not group.moments:
        return neutral(group, "what reads them was never seen")
    return torch.stack([_unexplained(moments, size) for moments in group.moments]).mean(0)


def _unexplained(moments: Moments, size: float) -> Tensor:
    """Return the scores (C,) as one layer sees the channels."""
    variance_C, order_C = moments.variance_C.sort(descending=True, stable=True)
    varies_C = variance_C > CONSTANT * variance_C[0]
    safe_C = torch.where(varies_C, variance_C, 1.0)
    explained_CC = moments.covariance_CC[order_C][:, order_C].square() / safe_C / safe_C.unsqueeze(1)
    left_C = (1 - explained_CC.tril(-1).amax(1)).clamp(0, 1) * varies_C
    if size:
        left_C = left_C * (variance_C / variance_C.mean().clamp_min(torch.finfo(variance_C.dtype).tiny)).pow(size)
    scores_C = torch.empty_like(left_C)
    scores_C[order_C] = left_C
    return scores_C.float()
