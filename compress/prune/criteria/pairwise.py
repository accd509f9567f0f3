"""Kernels of a group compared in pairs: each pair once, a block of rows at a time, for all criteria together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from compress.graph.stats import FoldedPart, GroupStats

#: Rows of the matrix of pairs that are worked on at a time.
ROWS = 128


@dataclass(frozen=True)
class Pairs:
    """What the kernels of a group are to each other.

    Where several layers make a channel, its kernels are joined to one vector: channels are alike only if all their
    kernels are.

    Attributes:
        distances_C: Σ_j ‖F_c - F_j‖₂ of the kernels as the layers have them.
        folded_CC: F_i · F_j of the kernels with the batch norm folded in and the constants appended.
    """

    distances_C: Tensor
    folded_CC: Tensor


_PAIRS: WeakKeyDictionary[GroupStats, Pairs] = WeakKeyDictionary()


def pairs(group: GroupStats) -> Pairs:
    """Return what the kernels of a group are to each other; needs "folded".

    It exists as long as the group's statistics, because several criteria look at it. It is smaller than the kernels
    wherever a kernel has more than C weights.

    >>> ones_C1, zeros_C1 = torch.ones(3, 1), torch.zeros(3, 1)
    >>> part = FoldedPart("a", torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]]), 2 * ones_C1, zeros_C1)
    >>> found = pairs(GroupStats("a", 3, {"folded": [part]}))
    >>> found.distances_C, found.folded_CC[1].round()
    (tensor([8., 9., 7.]), tensor([  0., 100.,  36.]))
    """
    if group not in _PAIRS:
        _PAIRS[group] = _compared([piece for part in group.folded_parts for piece in _pieces(part)])
    return _PAIRS[group]


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
    square_C = products_CC.diagonal()
    sums_C = torch.zeros_like(square_C)
    for rows in _blocks(len(products_CC)):
        _add_distances(sums_C, rows, products_CC[rows, : rows.stop].clone(), square_C)
    return sums_C / (len(products_CC) - 1)


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


class _Piece:
    """Kernels with one scale each, about their mean: the product of kernels that all but agree would drown in it.

    With F_i = s_i (G_i + m), where m is the mean: F_i · F_j = s_i s_j G_i · G_j + t_i s_j + s_i t_j for
    t_i = s_i (G_i · m + m · m / 2).

    Args:
        kernels_CK: Kernels as the layer has them.
        scale_C: Their scales s.
        constant_CM: Constants, whose products are added to those of the folded kernels.
    """

    def __init__(self, kernels_CK: Tensor, scale_C: Tensor, constant_CM: Tensor) -> None:
        mean_K = kernels_CK.mean(0)
        self.centred_CK, self._scale_C = kernels_CK - mean_K, scale_C
        lean_C = scale_C * (self.centred_CK @ mean_K + mean_K @ mean_K / 2)
        self._left_CR = torch.cat([lean_C[:, None], scale_C[:, None], constant_CM], 1)
        self._right_CR = torch.cat([scale_C[:, None], lean_C[:, None], constant_CM], 1)

    def products(self, rows: slice) -> Tensor:
        """Return G_i · G_j (R, S) of some kernels with all up to themselves."""
        return self.centred_CK[rows] @ self.centred_CK[: rows.stop].T

    def fold(self, products_RS: Tensor, rows: slice) -> Tensor:
        """Turn G_i · G_j into F_i · F_j, in place, with the products of the constants added."""
        products_RS.mul_(self._scale_C[rows, None]).mul_(self._scale_C[: rows.stop])
        return products_RS.addmm_(self._left_CR[rows], self._right_CR[: rows.stop].T)


def _pieces(part: FoldedPart) -> Iterator[_Piece]:
    """Yield the kernels at each of a channel's positions: they have a scale each."""
    num_positions = part.scale_CM.shape[1]
    kernels_CMK = part.plain_CK.float().unflatten(1, (num_positions, -1))
    for position in range(num_positions):
        one = slice(position, position + 1)
        yield _Piece(kernels_CMK[:, position], part.scale_CM[:, position].float(), part.constant_CM[:, one].float())


def _compared(pieces: Sequence[_Piece]) -> Pairs:
    """Return what joined kernels are to each other. A pair's product is used for both results and not kept."""
    square_C = torch.stack([piece.centred_CK.square().sum(1) for piece in pieces]).sum(0)
    sums_C, folded_CC = torch.zeros_like(square_C), square_C.new_empty(len(square_C), len(square_C))
    for rows in _blocks(len(square_C)):
        plain_RS = square_C.new_zeros(rows.stop - rows.start, rows.stop)
        folded_RS = torch.zeros_like(plain_RS)
        for piece in pieces:
            products_RS = piece.products(rows)
            plain_RS += products_RS
            folded_RS += piece.fold(products_RS, rows)
        folded_CC[rows, : rows.stop] = folded_RS
        folded_CC[: rows.start, rows] = folded_RS[:, : rows.start].T
        _add_distances(sums_C, rows, plain_RS, square_C)
    return Pairs(sums_C, folded_CC)


def _add_distances(sums_C: Tensor, rows: slice, products_RS: Tensor, square_C: Tensor) -> None:
    """Add the distances between some kernels and all up to themselves to the sums of both; spoils the products."""
    found_RS = _distances(products_RS, square_C[rows], square_C[: rows.stop])
    found_RS[:, rows].fill_diagonal_(0)
    sums_C[rows] += found_RS.sum(1)
    sums_C[: rows.start] += found_RS[:, : rows.start].sum(0)


def _distances(products_RS: Tensor, square_R: Tensor, square_S: Tensor) -> Tensor:
    """Return Euclidean distances from products and squared sizes, in the memory of the products."""
    return products_RS.mul_(-2).add_(square_S).add_(square_R.unsqueeze(1)).clamp_min_(0).sqrt_()
