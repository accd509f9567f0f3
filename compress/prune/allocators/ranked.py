"""All channels of all groups stand in one ranking."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from compress.prune.allocators.family import ALLOCATORS, CostOf, LossOf, Masks, levels_from, raised, widths_of


@ALLOCATORS.register("global", compares_groups=True)
def ranked(
    scores: Mapping[str, Tensor],
    cost: CostOf,
    limit: float,
    loss_of: LossOf,
    *,
    min_kept_ratio: float = 0.1,
    round_to: int = 1,
) -> Masks:
    """Cut the channels that are worth least in the whole network, until the rest fits.

    kept = {c : s_c > t} with the lowest threshold t whose cost is within the limit.

    Args:
        scores: Worth of the channels (C,) by group, comparable between groups.
        cost: From masks by group to a cost that grows with what is kept.
        limit: Largest cost allowed.
        loss_of: Not asked.
        min_kept_ratio: Part of each group that always stays, in [0, 1]; one channel always does.
        round_to: Kept numbers are multiples of this, or the whole group; numbers in between are rounded up.

    Returns:
        Masks (C,) by group, True = keep.

    Differs from the paper: no paper.

    Cost: the cost function is asked about log2 of the number of channels times.

    Reference: threshold of Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV
    2017, section 3; protected part of a group as in PruningBench, 2024.

    >>> import torch
    >>> scores = {"a": torch.tensor([3.0, 1.0, 2.0, 4.0]), "b": torch.tensor([5.0, 6.0])}
    >>> kept = ranked(scores, lambda kept: sum(int(mask.sum()) for mask in kept.values()), 3, None)
    >>> kept["a"].tolist(), kept["b"].tolist()
    ([False, False, False, True], [True, True])
    """
    widths = widths_of(scores, min_kept_ratio=min_kept_ratio, round_to=round_to)
    return raised(scores, widths, levels_from(scores, widths), cost, limit)
