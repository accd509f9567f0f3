"""The same part of every kind of group goes; inside a kind the channels compete."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from compress.prune.allocators.family import ALLOCATORS, CostOf, LossOf, Masks, levels_from, raised, widths_of


@ALLOCATORS.register("isomorphic", paper="Fang 2024")
def isomorphic(
    scores: Mapping[str, Tensor],
    cost: CostOf,
    limit: float,
    loss_of: LossOf,
    *,
    min_kept_ratio: float = 0.1,
    round_to: int = 1,
) -> Masks:
    """Rank the channels of groups of one kind together, and cut the same part of every kind.

    kept = {c : rank of s_c in its class / channels of the class > p} with the smallest part p whose cost is within
    the limit. Groups are of one class when their names are equal but for the numbers in them: `layer1.0.conv1` and
    `layer2.3.conv2`, but not `conv1`. Blocks are a class.

    Args:
        scores: Worth of the channels (C,) by group, comparable between groups of one class.
        cost: From masks by group to a cost that grows with what is kept.
        limit: Largest cost allowed.
        loss_of: Not asked.
        min_kept_ratio: Part of each group that always stays, in [0, 1]; one channel always does.
        round_to: Kept numbers are multiples of this, or the whole group; numbers in between are rounded up.

    Returns:
        Masks (C,) by group, True = keep.

    Differs from the paper: classes come from names instead of comparing the graphs of the layers that go together, so
    a network that gives equal things different names has more classes; equal scores share a rank; a part of each
    group is protected.

    Cost: the cost function is asked about log2 of the number of channels times.

    Reference: Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024, section 3.3.

    Half of each class goes, though every score of `stem` is below all others:

    >>> scores = {"stem": torch.tensor([1.0, 2.0]), "a.0": torch.tensor([8.0, 9.0]), "a.1": torch.tensor([3.0, 4.0])}
    >>> kept = isomorphic(scores, lambda kept: sum(map(sum, kept.values())), 4, None, min_kept_ratio=0.0)
    >>> [mask_C.tolist() for mask_C in kept.values()]
    [[False, True], [True, True], [False, True]]
    """
    widths = widths_of(scores, min_kept_ratio=min_kept_ratio, round_to=round_to)
    return raised(scores, widths, levels_from(ranks_in_class(scores), widths), cost, limit)


def class_of(name: str) -> str:
    """Return the class of a group: its name without the numbers.

    >>> class_of("layer1.10.conv2")
    'layer*.*.conv*'
    """
    return re.sub(r"\d+", "*", name)


def ranks_in_class(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of its class that each channel is not below, in (0, 1], float64 (C,) by group.

    >>> ranks_in_class({"a.0": torch.tensor([5.0, 7.0]), "a.1": torch.tensor([7.0, 9.0])})["a.0"].tolist()
    [0.25, 0.625]
    """
    classes: dict[str, list[str]] = defaultdict(list)
    for name in scores:
        classes[class_of(name)].append(name)
    found: dict[str, Tensor] = {}
    for names in classes.values():
        pool_N = torch.cat([scores[name].double().cpu() for name in names])
        _, which_N, counts = pool_N.unique(return_inverse=True, return_counts=True)
        middle = counts.cumsum(0) - (counts - 1) / 2
        parts = (middle / len(pool_N))[which_N].split([len(scores[name]) for name in names])
        found.update(zip(names, parts, strict=True))
    return found
