"""Channels whose kernel is nearly empty are worth little."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA


@CRITERIA.register("kernel_sparsity", paper="Sun 2015", needs=("weight",), idea="C6")
def kernel_sparsity(group: GroupStats, *, threshold: float = 0.5) -> Tensor:
    """Score a channel by the part of its kernel that is not near 0.

    s_c = mean over layers and k of min(1, |w_ck| / t), with t = threshold times the root mean square of the layer's
    weights. A small threshold counts the weights that are not 0; a large one adds up their sizes.

    Args:
        group: Kernels (C, K) of the layers that make the channels.
        threshold: Above 0; weights of this many root mean squares, or more, count fully.

    Returns:
        scores_C in [0, 1].

    Differs from the paper: it removes single connections; here the weights near 0 are counted, with a ramp instead of
    a step so that no two kernels tie by accident.

    Cost: one look at the weights; no data.

    Reference: Sun et al., "Sparsifying Neural Network Connections for Face Recognition", 2015, whose counted
    connections these are; the ramp is the capped ℓ1 penalty of Zhang, JMLR 2010.

    Root mean square 2, t = 1: (1 + 0.5) / 2 and (1 + 0) / 2:

    >>> from compress.graph.stats import Part
    >>> kernel = Part("a", "out", False, torch.tensor([[0.5, -1.0], [0.0, 14.75**0.5]]))
    >>> kernel_sparsity(GroupStats("a", 2, {"weight": [kernel]}))
    tensor([0.7500, 0.5000])
    """
    if not threshold > 0:
        raise ValueError(f"threshold={threshold!r}: it must be above 0; 0.5 is usual.")
    shares = []
    for part in group.weight_parts:
        if part.axis == "out" and not part.is_norm:
            full = threshold * part.values.square().mean().sqrt()
            shares.append((part.values.abs() / full.clamp_min(torch.finfo(full.dtype).tiny)).clamp_max(1).mean(1))
    return torch.stack(shares).mean(0)
