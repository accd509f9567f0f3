"""The family of allocators, and the search for the largest choice that fits, which they share."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from compress.core.budget import Infeasible
from compress.core.registry import Family

Masks = dict[str, Tensor]
CostOf = Callable[[Mapping[str, Tensor]], float]

#: (scores by group, cost of masks, limit) -> mask (C,) by group, True = keep. The masks never cost more than
#: the limit; those for a lower limit are a subset of those for a higher one. Raises Infeasible.
ALLOCATORS: Family[Callable[..., Masks]] = Family("allocator", data=("scores", "cost", "limit"))


class Widths:
    """Numbers of channels that a group may keep: multiples of `round_to`, and all of them.

    >>> Widths(10, min_kept_ratio=0.3, round_to=4).counts
    [4, 8, 10]
    """

    def __init__(self, num_channels: int, *, min_kept_ratio: float, round_to: int) -> None:
        if not 0 <= min_kept_ratio <= 1:
            raise ValueError(f"min_kept_ratio={min_kept_ratio!r}: the part that always stays lies in [0, 1].")
        if round_to < 1:
            raise ValueError(f"round_to={round_to!r}: must be 1 or more; 8 suits many CPUs.")
        smallest = max(1, math.ceil(min_kept_ratio * num_channels - 1e-9))
        multiples = [n for n in range(round_to, num_channels, round_to) if n >= smallest]
        self.counts = [*multiples, num_channels]

    def down(self, count: float) -> int:
        """Return the largest allowed number up to `count`; the smallest allowed one if there is none."""
        return self.counts[max(0, bisect_right(self.counts, count + 1e-9) - 1)]

    def up(self, count: int) -> int:
        """Return the smallest allowed number from `count` on."""
        return self.counts[bisect_left(self.counts, count)]


def widths_of(scores: Mapping[str, Tensor], *, min_kept_ratio: float, round_to: int) -> dict[str, Widths]:
    """Return the allowed numbers of every group, and check the scores.

    Raises:
        ValueError: Scores that are infinite or no numbers.
    """
    for name, scores_C in scores.items():
        if not bool(scores_C.isfinite().all()):
            raise ValueError(f"scores of {name} are infinite or no numbers: the network or its gradients diverged.")
    return {
        name: Widths(len(scores_C), min_kept_ratio=min_kept_ratio, round_to=round_to)
        for name, scores_C in scores.items()
    }


def best(scores_C: Tensor, count: int) -> Tensor:
    """Return the mask of the `count` highest scores; of equal ones the earlier stay.

    >>> best(torch.tensor([1.0, 3.0, 1.0]), 2)
    tensor([ True,  True, False])
    """
    mask_C = torch.zeros(len(scores_C), dtype=torch.bool)
    mask_C[torch.sort(scores_C.cpu(), descending=True, stable=True).indices[:count]] = True
    return mask_C


def largest_fit(masks_at: Callable[[int], Masks], num_choices: int, cost: CostOf, limit: float) -> Masks:
    """Return the last of `num_choices` nested choices whose cost stays within `limit`, by bisection.

    Args:
        masks_at: Choice by number; each one contains the one before, so costs ascend.
        num_choices: At least 1.
        cost: Cost of a choice.
        limit: Largest cost allowed.

    Raises:
        Infeasible: Even choice 0 costs more. A cost that has a method `refusal` makes the error itself.
    """
    fewest = masks_at(0)
    smallest = cost(fewest)
    if smallest > limit:
        refusal = getattr(cost, "refusal", None)
        raise refusal(fewest) if refusal else Infeasible(getattr(cost, "__name__", "cost"), limit, smallest)
    fits, breaks = 0, num_choices
    while breaks - fits > 1:
        middle = (fits + breaks) // 2
        if cost(masks_at(middle)) <= limit:
            fits = middle
        else:
            breaks = middle
    return masks_at(fits)
