"""Kernels of a group compared in pairs: each pair once, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from compress.graph.stats import GroupStats, Part

#: Rows of the matrix of pairs that are worked on at a time.
ROWS = 256

_PRODUCTS: WeakKeyDictionary[GroupStats, Tensor] = WeakKeyDictionary()


def joined(parts: Sequence[Part]) -> Tensor:
    """Return the kernels that make each channel, of all layers that do, as one row (C, K).

    Channels that several layers make are alike only if all their kernels are.
    """
    return torch.cat([part.values.float() for part in parts if part.axis == "out" and not part.is_norm], 1)


def distance_sums(kernels_CK: Tensor) -> Tensor:
    """Return Σ_j ‖F_c - F_j‖₂ of every kernel (C,). Memory grows with C, not with C².

    >>> distance_sums(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]]))
    tensor([8., 9., 7.])
    """
    centred_CK = kernels_CK - kernels_CK.mean(0)
    square_C, sums_C = centred_CK.square().sum(1), kernels_CK.new_zeros(len(kernels_CK))
    for rows, products_RS in _products(centred_CK):
        found_RS = _distances(products_RS, square_C[rows], square_C[: rows.stop])
        found_RS[:, rows].fill_diagonal_(0)
        sums_C[rows] += found_RS.sum(1)
        sums_C[: rows.start] += found_RS[:, : rows.start].sum(0)
    return sums_C


def folded_products(group: GroupStats) -> Tensor:
    """Return F_i · F_j (C, C) of the joined folded kernels of a group.

    It exists as long as the group's statistics, because several criteria look at it. It is smaller than the kernels
    wherever a kernel has more than C weights.
    """
    if group not in _PRODUCTS:
        kernels_CK = joined(group.folded_parts)
        found_CC = kernels_CK.new_empty(len(kernels_CK), len(kernels_CK))
        for rows, products_RS in _products(kernels_CK):
            found_CC[rows, : rows.stop] = products_RS
            found_CC[: rows.start, rows] = products_RS[:, : rows.start].T
        _PRODUCTS[group] = found_CC
    return _PRODUCTS[group]


def nearest_distances(products_CC: Tensor, count: int) -> Tensor:
    """Return the `count` smallest distances of every kernel to another (C, count), in no order, from products.

    >>> kernels_CK = torch.tensor([[0.0], [3.0], [4.0]])
    >>> nearest_distances(kernels_CK @ kernels_CK.T, 1).flatten()
    tensor([3., 1., 1.])
    """
    square_C, found = products_CC.diagonal(), []
    for rows in _blocks(len(products_CC)):
        distances_RC = _distances(products_CC[rows].clone(), square_C[rows], square_C)
        distances_RC[:, rows].fill_diagonal_(torch.inf)
        found.append(distances_RC.topk(count, largest=False, sorted=False).values)
    return torch.cat(found)


def mean_distances(products_CC: Tensor) -> Tensor:
    """Return the mean distance of every kernel to all others (C,), from products; for two kernels or more.

    >>> kernels_CK = torch.tensor([[0.0], [3.0], [4.0]])
    >>> mean_distances(kernels_CK @ kernels_CK.T)
    tensor([3.5000, 2.0000, 2.5000])
    """
    square_C, found = products_CC.diagonal(), []
    for rows in _blocks(len(products_CC)):
        distances_RC = _distances(products_CC[rows].clone(), square_C[rows], square_C)
        distances_RC[:, rows].fill_diagonal_(0)
        found.append(distances_RC.sum(1) / (len(products_CC) - 1))
    return torch.cat(found)


def largest_cosine_before(products_CC: Tensor, order_C: Tensor) -> Tensor:
    """Return for every kernel the largest cosine with one that comes earlier in an order (C,), in that order.

    The first has none before it: -inf. A kernel of zeros has the cosine 0 with all.

    >>> kernels_CK = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    >>> largest_cosine_before(kernels_CK @ kernels_CK.T, torch.tensor([2, 1, 0]))
    tensor([-inf, 0., 1.])
    """
    size_C = products_CC.diagonal().sqrt().clamp_min(torch.finfo(products_CC.dtype).tiny)[order_C]
    found = []
    for rows in _blocks(len(products_CC)):
        products_RS = products_CC[order_C[rows]][:, order_C[: rows.stop]]
        cosines_RS = products_RS / size_C[rows, None] / size_C[: rows.stop]
        later_RS = torch.ones_like(cosines_RS, dtype=torch.bool).triu_(rows.start)
        found.append(cosines_RS.masked_fill_(later_RS, -torch.inf).amax(1))
    return torch.cat(found)


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, ROWS):
        yield slice(start, min(start + ROWS, count))


def _products(kernels_CK: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the products (R, S) of some kernels with all up to themselves."""
    for rows in _blocks(len(kernels_CK)):
        yield rows, kernels_CK[rows] @ kernels_CK[: rows.stop].T


def _distances(products_RS: Tensor, square_R: Tensor, square_S: Tensor) -> Tensor:
    """Return Euclidean distances from products and squared sizes, in the memory of the products."""
    return products_RS.mul_(-2).add_(square_S).add_(square_R.unsqueeze(1)).clamp_min_(0).sqrt_()
