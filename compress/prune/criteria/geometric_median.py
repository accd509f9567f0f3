"""Kernels in the middle of all others can be replaced by them."""

from __future__ import annotations

from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA
from compress.prune.criteria.pairwise import distance_sums


@CRITERIA.register("geometric_median", paper="He 2019", needs=("weight",), idea="C9")
def geometric_median(group: GroupStats) -> Tensor:
    """Score a channel by how far its kernel is from all others together.

    s_c = Σ_j ‖F_c - F_j‖₂. The smallest is nearest to the geometric median.

    Args:
        group: Kernels (C, K) of the layers that make the channels.

    Returns:
        scores_C >= 0.

    Differs from the paper: where several layers make the channel, its kernels are joined to one vector.

    Cost: C² K / 2 multiply-adds, which `kernel_distance` and `kernel_angle` share if they are computed too; no data.

    Reference: He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
    CVPR 2019, section 3.2.

    Kernels at 0, 3 and 4 of a line:

    >>> import torch
    >>> from compress.graph.stats import Part
    >>> kernel = Part("a", "out", False, torch.tensor([[0.0], [3.0], [4.0]]))
    >>> geometric_median(GroupStats("a", 3, {"weight": [kernel]}))
    tensor([7., 4., 5.])
    """
    return distance_sums(group)
