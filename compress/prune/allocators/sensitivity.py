"""Every group keeps the least with which, cut alone, it adds no more to the loss than a line allows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from compress.prune.allocators.family import (
    ALLOCATORS,
    CostOf,
    LossOf,
    Masks,
    Widths,
    best,
    raised,
    settled,
    widths_of,
)


@ALLOCATORS.register("sensitivity", paper="Li 2017", idea="C10")
def sensitivity(
    scores: Mapping[str, Tensor],
    cost: CostOf,
    limit: float,
    loss_of: LossOf,
    *,
    min_kept_ratio: float = 0.1,
    round_to: int = 1,
    ratios: tuple[float, ...] = (0.75, 0.5, 0.25),
) -> Masks:
    """Cut each group as far as its own curve of loss against what is kept stays below one line.

    n_g = min {n : Δ_g(n) <= δ} with the lowest line δ whose cost is within the limit. Δ_g(n) is what the loss gains
    when group g alone keeps its n best channels: measured at `ratios` and at the fewest channels allowed, straight
    in between, never falling as n falls and never below 0.

    Args:
        scores: Worth of the channels (C,) by group; decides which of a group go, not how many.
        cost: From masks by group to a cost that grows with what is kept.
        limit: Largest cost allowed.
        loss_of: From masks by group to the loss after a trial cut.
        min_kept_ratio: Part of each group that always stays, in [0, 1]; one channel always does.
        round_to: Kept numbers are multiples of this, or the whole group.
        ratios: Parts of a group, in (0, 1), at which its curve is measured; allowed numbers below are taken.

    Returns:
        Masks (C,) by group, True = keep.

    Differs from the paper: loss instead of accuracy, a line for all groups instead of a choice by eye for each, and
    batch norm is recalibrated before the loss is measured.

    Cost: at most groups · (ratios + 1) + 1 trial cuts, the same ones for every limit.

    Reference: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.2 and figure 2.

    Each channel of `a` adds 4 to the loss, each of `b` 1; the line lies between 4 and 5:

    >>> import torch
    >>> scores = {"a": torch.arange(8.0), "b": torch.arange(8.0)}
    >>> def loss_of(kept):
    ...     return 4.0 * int((~kept["a"]).sum()) + int((~kept["b"]).sum())
    >>> kept = sensitivity(scores, lambda kept: sum(map(sum, kept.values())), 11, loss_of)
    >>> int(kept["a"].sum()), int(kept["b"].sum())
    (7, 4)
    """
    if not all(0 < ratio < 1 for ratio in ratios):
        raise ValueError(f"ratios={ratios!r}: kept parts at which curves are measured lie in (0, 1).")
    widths = widths_of(scores, min_kept_ratio=min_kept_ratio, round_to=round_to)
    if (masks := settled(scores, widths, cost, limit)) is not None:
        return masks
    whole = {name: best(score_C, len(score_C)) for name, score_C in scores.items()}
    unhurt = loss_of(whole)
    levels = {}
    for name, own in widths.items():
        counts = measured_counts(own, ratios)
        gains = [loss_of(whole | {name: best(scores[name], count)}) - unhurt for count in counts]
        levels[name] = _levels(own, counts, gains)
    return raised(scores, widths, levels, cost, limit)


def measured_counts(own: Widths, ratios: tuple[float, ...]) -> list[int]:
    """Return the numbers of channels at which a group's curve is measured, rising, without the whole group.

    >>> measured_counts(Widths(8, min_kept_ratio=0.1, round_to=1), (0.75, 0.5, 0.25))
    [1, 2, 4, 6]
    """
    below = {own.down(ratio * own.counts[-1]) for ratio in ratios} | {own.counts[0]}
    return sorted(below - {own.counts[-1]})


def _levels(own: Widths, counts: list[int], gains: list[float]) -> list[float]:
    """Return, for `raised`, the line above which each allowed number is given up for the one before."""
    falling = np.maximum.accumulate(np.nan_to_num([0.0, *reversed(gains)], nan=np.inf, posinf=np.inf, neginf=0.0))
    finite = np.minimum(falling, np.finfo(float).max / 4)
    curve = np.interp(own.counts, [*counts, own.counts[-1]], finite[::-1])
    return [float(level) for level in np.minimum.accumulate(curve)[:-1]]
