"""Kernels that point where a larger one points do what that one does."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA
from compress.prune.criteria.pairwise import folded_products, largest_cosine_before


@CRITERIA.register("kernel_angle", paper="RoyChowdhury 2017", needs=("folded",), idea="C5")
def kernel_angle(group: GroupStats) -> Tensor:
    """Score a channel by the angle between its kernel and the nearest larger one.

    s_c = min over j with ‖F_j‖ > ‖F_c‖ of 1 - cos(F_c, F_j), for kernels F with the batch norm folded in and the bias
    appended. Of kernels that point the same way all but the largest have 0. The largest of all has 2.

    Args:
        group: Kernels (C, K) of the layers that make the channels, with the batch norm behind each.

    Returns:
        scores_C in [0, 2]; 0 for kernels of zeros.

    Differs from the paper: it clusters by angle and keeps one of each cluster; here every kernel has a score. Opposite
    kernels are not alike, because the activation treats them differently.

    Cost: C² K / 2 multiply-adds, which `geometric_median` and `kernel_distance` share if they are computed too, and C²
    numbers kept; no data.

    Reference: RoyChowdhury et al., "Reducing Duplicate Filters in Deep Neural Networks", NIPS workshop 2017.

    Directions of 0, 90 and 0 degrees with lengths 3, 2 and 1:

    >>> from compress.graph.stats import FoldedPart
    >>> kernel_32 = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    >>> part = FoldedPart("a", kernel_32, torch.ones(3, 1), torch.zeros(3, 1))
    >>> kernel_angle(GroupStats("a", 3, {"folded": [part]}))
    tensor([2., 1., 0.])
    """
    products_CC = folded_products(group)
    square_C, order_C = products_CC.diagonal().sort(descending=True, stable=True)
    scores_C = torch.empty_like(square_C)
    scores_C[order_C] = (1 - largest_cosine_before(products_CC, order_C)).clamp(0, 2) * (square_C > 0)
    return scores_C
