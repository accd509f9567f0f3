"""Kernels that lie close to others do what those do."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA
from compress.prune.criteria.pairwise import folded_products, mean_distances, nearest_distances


@CRITERIA.register("kernel_distance", paper="Srinivas 2015", needs=("folded",), idea="C4")
def kernel_distance(group: GroupStats, *, neighbours: int = 0) -> Tensor:
    """Score a channel by the mean distance of its kernel to the others.

    s_c = mean of the smallest ‖F_c - F_j‖₂, j ≠ c, for kernels F with the batch norm folded in and the bias appended.

    Args:
        group: Kernels (C, K) of the layers that make the channels, with the batch norm behind each.
        neighbours: How many of the nearest count; 0 for all. With 1, two equal kernels both have 0: use an allocator
            that keeps one, or `kernel_angle`, which spares the larger.

    Returns:
        scores_C >= 0; 0 for a group of one.

    Differs from the paper: it removes neurons one by one and weighs a distance by the next layer; here every kernel
    gets its score at once.

    Cost: C² K / 2 multiply-adds, which `geometric_median` and `kernel_angle` share if they are computed too, and C²
    numbers kept; no data.

    Reference: Srinivas and Babu, "Data-free Parameter Pruning for Deep Neural Networks", BMVC 2015, section 3.

    Kernels at 0, 3 and 4 of a line, without bias:

    >>> from compress.graph.stats import FoldedPart
    >>> kernel_31 = torch.tensor([[0.0], [3.0], [4.0]])
    >>> part = FoldedPart("a", kernel_31, torch.ones(3, 1), torch.zeros(3, 1))
    >>> stats = GroupStats("a", 3, {"folded": [part]})
    >>> kernel_distance(stats), kernel_distance(stats, neighbours=1)
    (tensor([3.5000, 2.0000, 2.5000]), tensor([3., 1., 1.]))
    """
    if neighbours < 0:
        raise ValueError(f"neighbours={neighbours}: use 0 for all other kernels, or how many of the nearest count.")
    others = group.num_channels - 1
    if not others:
        return torch.zeros(1)
    if 0 < neighbours < others:
        return nearest_distances(folded_products(group), neighbours).mean(1)
    return mean_distances(folded_products(group))
