"""Widths where the target gets faster, and blocks, by what they are worth for the time that they take."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from compress.prune.allocators.descent import MAX_LEVELS, Descent, by_worth, first_fit
from compress.prune.allocators.family import ALLOCATORS, CostOf, LossOf, Masks, largest_fit, widths_of


@ALLOCATORS.register("latency_knapsack", paper="Shen 2022", idea="D7", compares_groups=True)
def latency_knapsack(
    scores: Mapping[str, Tensor],
    cost: CostOf,
    limit: float,
    loss_of: LossOf,
    *,
    min_kept_ratio: float = 0.1,
    round_to: int = 8,
) -> Masks:
    """Remove whole tiles of channels, or blocks, where the least worth is lost for the time saved.

    next = argmin over groups g and widths n < n_g of (Σ worth between n and n_g) / (time saved), until the rest fits.

    Args:
        scores: Worth of the channels (C,) by group, comparable between groups; blocks are the group BLOCKS.
        cost: From masks by group to a cost that grows with what is kept; with a latency budget that of the table.
        limit: Largest cost allowed.
        loss_of: Not asked.
        min_kept_ratio: Part of each group that always stays, in [0, 1]; one channel always does. Blocks may all go.
        round_to: Kept numbers are multiples of this, or the whole group.

    Returns:
        Masks (C,) by group, True = keep.

    Differs from the paper: greedy over all smaller widths of a group at once instead of an integer program; the width
    of a tile is not given but found, as widths that save no time are never the best move; the whole network is
    timed afterwards and the limit corrected by the caller.

    Cost: one question to the cost function for each allowed width of each group, and each block, at each removal.

    Reference: Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022, equation 5.

    Time falls only at 8 and 0 channels, so 12 would be worth losing nothing for:

    >>> import torch
    >>> scores = {"a": torch.arange(16.0)}
    >>> time = lambda kept: -(-int(kept["a"].sum()) // 8)
    >>> int(latency_knapsack(scores, time, 1, None, round_to=4)["a"].sum())
    8
    """
    widths = widths_of(scores, min_kept_ratio=min_kept_ratio, round_to=round_to)
    descent = Descent(scores, cost, widths, reach=MAX_LEVELS)
    largest_fit(lambda _: descent.smallest, 1, cost, limit)
    return first_fit(descent.walk(by_worth(scores)), cost, limit)
