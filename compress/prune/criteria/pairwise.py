"""Kernels of a group compared in pairs: each pair once, a block of rows at a time, for all criteria together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from compress.graph.stats import FoldedPart, GroupStats

#: Rows of the matrix of pairs that are worked on at a time.
ROWS = 128

#: What was found of a group, by the need that it belongs to. It exists as long as the group's statistics.
_FOUND: WeakKeyDictionary[GroupStats, dict[str, Tensor]] = WeakKeyDictionary()


def distance_sums(group: GroupStats) -> Tensor:
    """Return Σ_j ‖F_c - F_j‖₂ of every kernel (C,) as the layers have them; needs "weight".

    Where several layers make a channel, its kernels are joined to one vector: channels are alike only if all their
    kernels are.
    """
    return _found(group, "weight").clone()


def folded_products(group: GroupStats) -> Tensor:
    """Return F_i · F_j (C, C) of the joined kernels, batch norm folded in and constants appended; needs "folded".

    Kept, because several criteria look at it. It is smaller than the kernels wherever a kernel has more than C weights.
    """
    return _found(group, "folded")


def _found(group: GroupStats, need: str) -> Tensor:
    """Return what belongs to a need.

    Products of kernels take longest. They serve both needs if both were gathered, whoever asks first; where a channel
    has several positions, sums of distances are then rounded in another order.
    """
    found = _FOUND.setdefault(group, {})
    if need not in found:
        group.parts(need)
        if "folded" in group.needs:
            pieces = [piece for part in group.folded_parts for piece in _pieces(part)]
        else:
            pieces = [_Piece(part.values) for part in group.weight_parts if part.axis == "out" and not part.is_norm]
        found.update(_compared(pieces, {"weight", "folded"} & group.needs))
    return found[need]


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
    """Kernels (C, K) with one scale each, and constants (C, M) that stand beside them when they are folded."""

    def __init__(self, kernels_CK: Tensor, scale_C: Tensor | None = None, constant_CM: Tensor | None = None) -> None:
        self.kernels_CK, self._scale_C, self._constant_CM = kernels_CK.float(), scale_C, constant_CM

    def products(self, rows: slice) -> Tensor:
        """Return the products (R, S) of some kernels with all up to themselves."""
        return self.kernels_CK[rows] @ self.kernels_CK[: rows.stop].T

    def fold(self, products_RS: Tensor, rows: slice) -> Tensor:
        """Turn products of kernels into those of the folded kernels, in place."""
        assert self._scale_C is not None
        assert self._constant_CM is not None
        products_RS.mul_(self._scale_C[rows, None]).mul_(self._scale_C[: rows.stop])
        return products_RS.addmm_(self._constant_CM[rows], self._constant_CM[: rows.stop].T)


def _pieces(part: FoldedPart) -> Iterator[_Piece]:
    """Yield the kernels at each of a channel's positions: they have a scale each."""
    num_positions = part.scale_CM.shape[1]
    kernels_CMK = part.plain_CK.unflatten(1, (num_positions, -1))
    for position in range(num_positions):
        one = slice(position, position + 1)
        yield _Piece(kernels_CMK[:, position], part.scale_CM[:, position].float(), part.constant_CM[:, one].float())


def _compared(pieces: Sequence[_Piece], needs: Collection[str]) -> dict[str, Tensor]:
    """Return sums of distances if "weight" is needed, and products of folded kernels if "folded" is.

    One pass does for both, unless most kernels have more in common than they differ in: products would then lose the
    differences to rounding, so distances are those of kernels without their mean.
    """
    if "weight" in needs and _have_much_in_common(pieces):
        centred = [_Piece(piece.kernels_CK - piece.kernels_CK.mean(0)) for piece in pieces]
        others = [need for need in needs if need != "weight"]
        return _in_one_pass(centred, ["weight"]) | (_in_one_pass(pieces, others) if others else {})
    return _in_one_pass(pieces, needs)


def _have_much_in_common(pieces: Sequence[_Piece]) -> bool:
    """Return whether the typical kernel's squared length is more than halved without the mean of all."""
    lengths_C, apart_C = (torch.zeros(len(pieces[0].kernels_CK), device=pieces[0].kernels_CK.device) for _ in range(2))
    for piece in pieces:
        mean_K = piece.kernels_CK.mean(0)
        square_C = piece.kernels_CK.square().sum(1)
        lengths_C += square_C
        apart_C += square_C - 2 * (piece.kernels_CK @ mean_K) + mean_K @ mean_K
    return bool(apart_C.median() < lengths_C.median() / 2)


def _in_one_pass(pieces: Sequence[_Piece], needs: Collection[str]) -> dict[str, Tensor]:
    square_C = torch.stack([piece.kernels_CK.square().sum(1) for piece in pieces]).sum(0)
    found = {"weight": torch.zeros_like(square_C)} if "weight" in needs else {}
    if "folded" in needs:
        found["folded"] = square_C.new_empty(len(square_C), len(square_C))
    for rows in _blocks(len(square_C)):
        products = [piece.products(rows) for piece in pieces]
        if "weight" in needs:
            _add_distances(found["weight"], rows, sum(products[1:], start=products[0].clone()), square_C)
        if "folded" in needs:
            folded = [piece.fold(products_RS, rows) for piece, products_RS in zip(pieces, products, strict=True)]
            folded_RS = sum(folded[1:], start=folded[0])
            found["folded"][rows, : rows.stop] = folded_RS
            found["folded"][: rows.start, rows] = folded_RS[:, : rows.start].T
    return found


def _add_distances(sums_C: Tensor, rows: slice, products_RS: Tensor, square_C: Tensor) -> None:
    """Add the distances between some kernels and all up to themselves to the sums of both; spoils the products."""
    found_RS = _distances(products_RS, square_C[rows], square_C[: rows.stop])
    found_RS[:, rows].fill_diagonal_(0)
    sums_C[rows] += found_RS.sum(1)
    sums_C[: rows.start] += found_RS[:, : rows.start].sum(0)


def _distances(products_RS: Tensor, square_R: Tensor, square_S: Tensor) -> Tensor:
    """Return Euclidean distances from products and squared sizes, in the memory of the products."""
    return products_RS.mul_(-2).add_(square_S).add_(square_R.unsqueeze(1)).clamp_min_(0).sqrt_()
