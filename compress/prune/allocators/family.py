"""The family of allocators, and the search for the largest choice that fits, which they share."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from compress.core.budget import Infeasible
from compress.core.registry import Family
from compress.graph.units import BLOCKS

Masks = dict[str, Tensor]
CostOf = Callable[[Mapping[str, Tensor]], float]
LossOf = Callable[[Mapping[str, Tensor]], float]

#: (scores by group, cost of masks, limit, loss of masks) -> mask (C,) by group, True = keep. The masks never cost
#: more than the limit; those for a lower limit are a subset of those for a higher one. Raises Infeasible.
#: The group BLOCKS stands for the residual blocks, one "channel" each, and may lose all of them. `loss_of` cuts for
#: a trial, without training, and returns the mean loss on validation inputs; it is slow and remembers its answers.
#: `compares_groups` on a card: scores of different groups are compared as they are.
ALLOCATORS: Family[Callable[..., Masks]] = Family("allocator", data=("scores", "cost", "limit", "loss_of"))


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
    widths = {
        name: Widths(len(scores_C), min_kept_ratio=min_kept_ratio, round_to=round_to)
        for name, scores_C in scores.items()
    }
    if BLOCKS in scores:
        widths[BLOCKS].counts = list(range(len(scores[BLOCKS]) + 1))
    return widths


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
        masks_at: Choice by number; each one contains the one before, so counted costs ascend. A latency may fall where
            a width suits the runtime better: what is returned then fits while the choice after it does not.
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


def prepare(cost: CostOf, choices: Sequence[Mapping[str, Tensor]]) -> None:
    """Tell a cost that has a method `prepare` which masks it will be asked for: what it times, it times in turns."""
    if told := getattr(cost, "prepare", None):
        told(choices)


def levels_from(worths: Mapping[str, Tensor], widths: Mapping[str, Widths]) -> dict[str, list[float]]:
    """Return the levels for `raised` of a line that moves down over comparable worths.

    A group gets its next allowed number as soon as the line reaches the best of the channels that come with it, so
    numbers in between are rounded up.

    >>> levels_from({"a": torch.tensor([1.0, 3.0, 2.0, 5.0])}, {"a": Widths(4, min_kept_ratio=0.5, round_to=2)})
    {'a': [2.0]}
    """
    highest_first = {name: torch.sort(worth_C.double(), descending=True).values for name, worth_C in worths.items()}
    return {name: highest_first[name][own.counts[:-1]].tolist() for name, own in widths.items()}


def raised(
    scores: Mapping[str, Tensor],
    widths: Mapping[str, Widths],
    levels: Mapping[str, Sequence[float]],
    cost: CostOf,
    limit: float,
) -> Masks:
    """Return the largest choice within `limit` on the way from the smallest network to the whole one.

    Every step of the way gives one group its next allowed number of channels. Steps are taken by falling level, of
    equal ones those of later groups first, so the choices for all limits are nested.

    Args:
        scores: Worth of the channels (C,) by group; decides which of a group stay.
        widths: Allowed numbers by group.
        levels: By group one for each allowed number but the smallest, never rising.
        cost: Cost of masks.
        limit: Largest cost allowed.

    Raises:
        Infeasible: Even the smallest network costs more.

    >>> scores = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([4.0, 5.0])}
    >>> widths = widths_of(scores, min_kept_ratio=0.0, round_to=1)
    >>> kept = raised(scores, widths, {"a": [9.0, 2.0], "b": [5.0]}, lambda kept: sum(map(sum, kept.values())), 4)
    >>> kept["a"].tolist(), kept["b"].tolist()
    ([False, True, True], [True, True])
    """
    names = list(scores)
    for name in names:
        assert len(levels[name]) == len(widths[name].counts) - 1, f"levels of {name}"
        assert all(above >= below for above, below in pairwise(levels[name])), f"levels of {name} rise"
    steps = sorted(((level, g) for g, name in enumerate(names) for level in levels[name]), reverse=True)
    owner_S = torch.tensor([g for _, g in steps], dtype=torch.int64)

    def masks_at(choice: int) -> Masks:
        taken_G = torch.bincount(owner_S[:choice], minlength=len(names)).tolist()
        return {
            name: best(scores[name], widths[name].counts[taken]) for name, taken in zip(names, taken_G, strict=True)
        }

    return largest_fit(masks_at, len(steps) + 1, cost, limit)


def settled(scores: Mapping[str, Tensor], widths: Mapping[str, Widths], cost: CostOf, limit: float) -> Masks | None:
    """Return all channels when they fit, and None when there is something to search for.

    Raises:
        Infeasible: Even the smallest network costs more than `limit`.
    """
    fewest = {name: best(scores_C, widths[name].counts[0]) for name, scores_C in scores.items()}
    largest_fit(lambda _: fewest, 1, cost, limit)
    everything = {name: best(scores_C, len(scores_C)) for name, scores_C in scores.items()}
    return everything if cost(everything) <= limit else None
