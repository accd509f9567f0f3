"""Channels whose maps have a low rank carry little information."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA, neutral


@CRITERIA.register("feature_rank", paper="Lin 2020", needs=("spectrum",), idea="C9")
def feature_rank(group: GroupStats) -> Tensor:
    """Score a channel by the effective rank of its feature maps.

    s_c = mean over readers and inputs of e^H(p), H(p) = -Σ_i p_i ln p_i, p_i = σ_i / Σσ, for the singular values σ of
    the map. A map of zeros has 0, one with r equal singular values r.

    Args:
        group: Mean effective ranks (C, 1), for each layer that reads maps of the channels.

    Returns:
        scores_C between 0 and the shorter side of the map; 1 for all, and a warning, where nobody sees maps.

    Differs from the paper: the effective rank instead of the number of singular values above 0, which is the full one
    for nearly every small map; maps as the readers see them, behind norm and activation.

    Cost: one forward pass and singular values of the maps of 32 inputs: seconds for small networks.

    Reference: Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020, section 3.3; effective rank:
    Roy and Vetterli, EUSIPCO 2007, definition 1.

    >>> from compress.graph.stats import Part
    >>> ranks = Part("b", "in", False, torch.tensor([[2.0], [1.5]]))
    >>> feature_rank(GroupStats("a", 2, {"spectrum": [ranks]}))
    tensor([2.0000, 1.5000])
    """
    if not group.rank_parts:
        return neutral(group, "no layer sees maps of them")
    return torch.stack([part.values.mean(1) for part in group.rank_parts]).mean(0)
