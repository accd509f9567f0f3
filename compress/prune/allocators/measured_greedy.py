"""Every move is tried out: the one that costs least loss for what it saves is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from compress.prune.allocators.descent import MAX_LEVELS, Descent, Offer, first_fit
from compress.prune.allocators.family import ALLOCATORS, CostOf, LossOf, Masks, largest_fit, widths_of


@ALLOCATORS.register("measured_greedy", paper="Yang 2018", idea="D7")
def measured_greedy(
    scores: Mapping[str, Tensor],
    cost: CostOf,
    limit: float,
    loss_of: LossOf,
    *,
    min_kept_ratio: float = 0.1,
    round_to: int = 8,
) -> Masks:
    """Try every removal out on the network and make the one that raises the loss least for the cost it saves.

    next = argmin over groups g and widths n < n_g, and blocks, of max(0, L(after) - L(now)) / (cost saved); of equal
    ones that which saves most, so that noise in losses that do not rise decides nothing.

    Args:
        scores: Worth of the channels (C,) by group: which channels a width keeps. Blocks are the group BLOCKS.
        cost: From masks by group to a cost that grows with what is kept.
        limit: Largest cost allowed.
        loss_of: Loss of a trial cut.
        min_kept_ratio: Part of each group that always stays, in [0, 1]; one channel always does. Blocks may all go.
        round_to: Kept numbers are multiples of this, or the whole group.

    Returns:
        Masks (C,) by group, True = keep.

    Differs from the paper: no fine-tuning between the removals; a removal that was tried at an earlier step is tried
    again only when its old price is the best, which is right as long as removals get dearer; blocks as well.

    Cost: one trial for each allowed width of each group and each block; after each removal one for each smaller width
    of that group, and a few more.

    Reference: Yang et al., "NetAdapt", ECCV 2018, algorithm 1; lazy evaluation of Minoux, 1978.

    The scores know nothing of it, but the loss needs "a":

    >>> import torch
    >>> scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    >>> total = lambda kept: sum(int(mask.sum()) for mask in kept.values())
    >>> kept = measured_greedy(scores, total, 3, lambda kept: -5.0 * int(kept["a"].sum()), round_to=1)
    >>> kept["a"].tolist(), kept["b"].tolist()
    ([True, True], [False, True])
    """
    widths = widths_of(scores, min_kept_ratio=min_kept_ratio, round_to=round_to)
    descent = Descent(scores, cost, widths, reach=MAX_LEVELS)
    largest_fit(lambda _: descent.smallest, 1, cost, limit)
    return first_fit(descent.walk(_Prices(loss_of).choose), cost, limit)


class _Prices:
    """What moves cost in loss, measured when first seen and renewed only while they look best."""

    def __init__(self, loss_of: LossOf) -> None:
        self._loss_of = loss_of
        self._rises: dict[object, float] = {}

    def choose(self, masks: Masks, offers: Sequence[Offer]) -> int:
        """Return the index of the offer with the lowest price, all of them renewed that could have won."""
        here, fresh = self._loss_of(masks), set()
        for k, offer in enumerate(offers):
            if _what_goes(masks, offer) not in self._rises:
                self._try(masks, offer, here)
                fresh.add(k)
        while True:
            rises = [self._rises[_what_goes(masks, offer)] for offer in offers]
            prices = [max(rise, 0.0) / offer.saved for rise, offer in zip(rises, offers, strict=True)]
            winner = min(range(len(offers)), key=lambda k: (prices[k], -offers[k].saved, k))
            if winner in fresh:
                return winner
            self._try(masks, offers[winner], here)
            fresh.add(winner)

    def _try(self, masks: Masks, offer: Offer, here: float) -> None:
        after = {**masks, offer.move.group: offer.move.mask_C}
        rise = self._loss_of(after) - here
        self._rises[_what_goes(masks, offer)] = math.inf if math.isnan(rise) else rise


def _what_goes(masks: Mapping[str, Tensor], offer: Offer) -> tuple[str, tuple[int, ...]]:
    """Return the channels that a move takes away, which is the same move wherever the rest of the network stands."""
    gone_C = masks[offer.move.group] & ~offer.move.mask_C
    return offer.move.group, tuple(gone_C.nonzero().flatten().tolist())
