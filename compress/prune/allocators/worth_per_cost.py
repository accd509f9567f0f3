"""Channels and blocks in one ranking, by what they are worth for what they cost."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from compress.prune.allocators.descent import Descent, by_worth, first_fit
from compress.prune.allocators.family import ALLOCATORS, CostOf, LossOf, Masks, largest_fit, widths_of


@ALLOCATORS.register("worth_per_cost", paper="Aflalo 2020", idea="A5", compares_groups=True)
def worth_per_cost(
    scores: Mapping[str, Tensor],
    cost: CostOf,
    limit: float,
    loss_of: LossOf,
    *,
    min_kept_ratio: float = 0.1,
    round_to: int = 1,
) -> Masks:
    """Remove what is worth least for what it costs, channel or block, with costs renewed after each removal.

    next = argmin over moves of (Σ worth removed) / (cost saved), until the rest fits.

    Args:
        scores: Worth of the channels (C,) by group, comparable between groups; blocks are the group BLOCKS.
        cost: From masks by group to a cost that grows with what is kept.
        limit: Largest cost allowed.
        loss_of: Not asked.
        min_kept_ratio: Part of each group that always stays, in [0, 1]; one channel always does. Blocks may all go.
        round_to: Kept numbers are multiples of this, or the whole group.

    Returns:
        Masks (C,) by group, True = keep.

    Differs from the paper: greedy instead of a knapsack solved exactly, because the cost of a channel changes with
    the widths around it; blocks stand in the same ranking.

    Cost: one question to the cost function for each group and block at each removal.

    Reference: knapsack view of Aflalo et al., "Knapsack Pruning with Inner Distillation", 2020, equation 5.

    Both channels of "a" are worth 1; one of "b" is worth 3 but saves four times as much:

    >>> import torch
    >>> scores = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([3.0, 9.0])}
    >>> price = lambda kept: int(kept["a"].sum()) + 4 * int(kept["b"].sum())
    >>> kept = worth_per_cost(scores, price, 6, None)
    >>> kept["a"].tolist(), kept["b"].tolist()
    ([True, True], [False, True])
    """
    descent = Descent(scores, cost, widths_of(scores, min_kept_ratio=min_kept_ratio, round_to=round_to), reach=1)
    largest_fit(lambda _: descent.smallest, 1, cost, limit)
    return first_fit(descent.walk(by_worth(scores)), cost, limit)
