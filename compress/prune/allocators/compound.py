"""Ratios start equal, small trial cuts adjust them, and one coefficient scales all of them to the limit."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from compress.prune.allocators.exponents import Anchor, levels_of
from compress.prune.allocators.family import (
    ALLOCATORS,
    CostOf,
    LossOf,
    Masks,
    Widths,
    best,
    largest_fit,
    raised,
    settled,
    widths_of,
)

#: Part of the whole cost that a trial cut saves.
TRIAL = 0.02


@ALLOCATORS.register("compound", paper="Tan 2019", idea="D1")
def compound(
    scores: Mapping[str, Tensor],
    cost: CostOf,
    limit: float,
    loss_of: LossOf,
    *,
    min_kept_ratio: float = 0.1,
    round_to: int = 1,
    anchor: float = 0.5,
    rounds: int = 2,
) -> Masks:
    """Start with equal ratios, let groups give more where that hurts less, and scale all with one coefficient.

    r_g = exp(-φ e_g) is the part that group g keeps. Start with e_g = 1 and φ so that the network costs `anchor`.
    Cut each group alone a little further, for about the same cost, and note the loss d_g that a unit of saved cost
    adds; e_g ← e_g · clip(√(mean d / d_g), 1/2, 2) with the geometric mean; repeat. Of the exponents tried, those
    with the smallest loss at the anchor stay, and φ alone is chosen for the limit.

    Args:
        scores: Worth of the channels (C,) by group; decides which of a group go, not how many.
        cost: From masks by group to a cost that grows with what is kept.
        limit: Largest cost allowed.
        loss_of: From masks by group to the loss after a trial cut.
        min_kept_ratio: Part of each group that always stays, in [0, 1]; one channel always does.
        round_to: Kept numbers are multiples of this, or the whole group; the nearest one is taken.
        anchor: Part of the whole cost at which trials are made, in (0, 1), whatever the limit is.
        rounds: How often exponents are adjusted; 0 leaves the ratios equal.

    Returns:
        Masks (C,) by group, True = keep.

    Differs from the paper: ratios of groups and of blocks shrink instead of depth, width and resolution growing;
    exponents come from trial cuts of a trained network instead of a grid search over trained ones.

    Cost: at most rounds · (groups + 1) + 1 trial cuts.

    Reference: Tan and Le, "EfficientNet: Rethinking Model Scaling for CNNs", ICML 2019, equation 3.

    Of `a` every channel adds 4 to the loss, of `b` 1, so b's exponent becomes √4 times a's:

    >>> import torch
    >>> scores = {"a": torch.arange(8.0), "b": torch.arange(8.0)}
    >>> def loss_of(kept):
    ...     return 4.0 * int((~kept["a"]).sum()) + int((~kept["b"]).sum())
    >>> kept = compound(scores, lambda kept: sum(map(sum, kept.values())), 8, loss_of, rounds=1)
    >>> int(kept["a"].sum()), int(kept["b"].sum())
    (5, 3)
    """
    if rounds < 0:
        raise ValueError(f"rounds={rounds!r}: must be 0 or more; 2 is usual.")
    widths = widths_of(scores, min_kept_ratio=min_kept_ratio, round_to=round_to)
    if (masks := settled(scores, widths, cost, limit)) is not None:
        return masks
    place = Anchor(scores, widths, cost, part=anchor)
    exponents, tried = dict.fromkeys(scores, 1.0), []
    for _ in range(rounds):
        kept = place.masks(exponents)
        loss = loss_of(kept)
        tried.append((loss, exponents))
        slopes = {}
        for name, own in widths.items():
            trial = _further(kept, name, own, scores[name], cost, TRIAL * place.whole_cost)
            if trial:
                slopes[name] = (loss_of(trial) - loss) / (cost(kept) - cost(trial))
        exponents = _adjusted(exponents, slopes)
    if rounds:
        tried.append((loss_of(place.masks(exponents)), exponents))
        exponents = min(tried, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0])[1]
    return raised(scores, widths, levels_of(widths, exponents), cost, limit)


def _further(kept: Masks, name: str, own: Widths, score_C: Tensor, cost: CostOf, saving: float) -> Masks | None:
    """Return masks in which one group has lost enough to save `saving`, or all it may; None where nothing is saved."""
    spent, now = cost(kept), int(kept[name].sum())
    choices = [kept | {name: best(score_C, count)} for count in own.counts if count < now]
    if not choices or cost(choices[0]) >= spent:
        return None
    return largest_fit(choices.__getitem__, len(choices), cost, max(spent - saving, cost(choices[0])))


def _adjusted(exponents: Mapping[str, float], slopes: Mapping[str, float]) -> dict[str, float]:
    """Return exponents that are larger where the loss grows less for the cost saved, and smaller where more.

    >>> _adjusted({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 16.0, "b": 1.0})
    {'a': 0.5, 'b': 2.0, 'c': 1.0}
    """
    known = {name: slope for name, slope in slopes.items() if math.isfinite(slope)}
    steepest = max(known.values(), default=0.0)
    if steepest <= 0:
        return dict(exponents)
    logs = {name: math.log(max(slope, 0.01 * steepest)) for name, slope in known.items()}
    middle = sum(logs.values()) / len(logs)
    factors = {name: min(2.0, max(0.5, math.exp((middle - log) / 2))) for name, log in logs.items()}
    return {name: exponent * factors.get(name, 1.0) for name, exponent in exponents.items()}
