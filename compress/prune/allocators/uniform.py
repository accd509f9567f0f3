"""Every group keeps the same part."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from compress.prune.allocators.family import ALLOCATORS, CostOf, LossOf, Masks, best, largest_fit, widths_of


@ALLOCATORS.register("uniform")
def uniform(
    scores: Mapping[str, Tensor],
    cost: CostOf,
    limit: float,
    loss_of: LossOf,
    *,
    min_kept_ratio: float = 0.1,
    round_to: int = 1,
) -> Masks:
    """Keep the same part of every group: the largest part that fits.

    n_g = ⌊r C_g⌋ with the largest r whose cost is within the limit; the n_g best channels stay.

    Args:
        scores: Worth of the channels (C,) by group.
        cost: From masks by group to a cost that grows with what is kept.
        limit: Largest cost allowed.
        loss_of: Not asked.
        min_kept_ratio: Part of each group that always stays, in [0, 1]; one channel always does.
        round_to: Kept numbers are multiples of this, or the whole group.

    Returns:
        Masks (C,) by group, True = keep.

    Differs from the paper: no paper.

    Cost: the cost function is asked about log2 of the number of channels times.

    Reference: the baseline of Gale et al., "The State of Sparsity in Deep Neural Networks", 2019.

    >>> import torch
    >>> scores = {"a": torch.tensor([3.0, 1.0, 2.0, 4.0]), "b": torch.tensor([1.0, 2.0])}
    >>> kept = uniform(scores, lambda kept: sum(int(mask.sum()) for mask in kept.values()), 3, None)
    >>> kept["a"].tolist(), kept["b"].tolist()
    ([True, False, False, True], [False, True])
    """
    widths = widths_of(scores, min_kept_ratio=min_kept_ratio, round_to=round_to)
    ratios = sorted({0.0} | {n / own.counts[-1] for own in widths.values() for n in own.counts})

    def masks_at(choice: int) -> Masks:
        return {
            name: best(scores_C, widths[name].down(ratios[choice] * len(scores_C))) for name, scores_C in scores.items()
        }

    return largest_fit(masks_at, len(ratios), cost, limit)
