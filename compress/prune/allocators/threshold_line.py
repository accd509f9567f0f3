"""A horizontal line through the sorted scores of all groups says how much each may lose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compress.prune.allocators.family import ALLOCATORS, CostOf, LossOf, Masks, levels_from, raised, widths_of


@ALLOCATORS.register("threshold_line", idea="C1")
def threshold_line(
    scores: Mapping[str, Tensor],
    cost: CostOf,
    limit: float,
    loss_of: LossOf,
    *,
    min_kept_ratio: float = 0.1,
    round_to: int = 1,
) -> Masks:
    """Sort each group's scores, scale the curves to one height, and cut what lies below a horizontal line.

    kept = {c : s_c / max s of its group > t} with the lowest line t whose cost is within the limit. `threshold_picture`
    gives the curves and the line for a figure.

    Args:
        scores: Worth of the channels (C,) by group; a factor on all scores of a group changes nothing, so neither
            does a normalizer that only scales.
        cost: From masks by group to a cost that grows with what is kept.
        limit: Largest cost allowed.
        loss_of: Not asked.
        min_kept_ratio: Part of each group that always stays, in [0, 1]; one channel always does.
        round_to: Kept numbers are multiples of this, or the whole group; numbers in between are rounded up.

    Returns:
        Masks (C,) by group, True = keep.

    Differs from the paper: that one keeps the largest scores of a layer up to a part of their sum of squares; here
    the line lies at one height for all groups, and the budget decides how high. Channels that the line touches at
    once go one by one, those of earlier groups first.

    Cost: the cost function is asked about log2 of the number of channels times.

    Reference: Ye et al., "Channel Pruning via Optimal Thresholding", 2020, for a line for each layer.

    The line at 1/2 takes half of `a`, whose curve is steep, and nothing of `b`, which is flat:

    >>> scores = {"a": torch.tensor([1.0, 9.0, 10.0, 5.0]), "b": torch.tensor([0.6, 0.7, 0.8])}
    >>> kept = threshold_line(scores, lambda kept: sum(map(sum, kept.values())), 5, None)
    >>> kept["a"].tolist(), kept["b"].tolist()
    ([False, True, True, False], [True, True, True])
    """
    widths = widths_of(scores, min_kept_ratio=min_kept_ratio, round_to=round_to)
    heights = {name: _height(score_C) for name, score_C in scores.items()}
    return raised(scores, widths, levels_from(heights, widths), cost, limit)


def threshold_picture(scores: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what a figure of the curves and the line needs, as JSON.

    Args:
        scores: Worth of the channels (C,) by group.
        kept: Masks (C,) by group that an allocator chose.

    Returns:
        "line": height of the line, 0 when nothing was cut: that of the highest channel that went. "groups": a row a
        group with its name, its curve (heights in [0, 1], falling), the number kept and the number up to the curve's
        knee, where it bends most.

    >>> scores = {"a": torch.tensor([1.0, 9.0, 10.0, 5.0])}
    >>> threshold_picture(scores, {"a": torch.tensor([False, True, True, False])})["groups"]
    [{'group': 'a', 'curve': [1.0, 0.9, 0.5, 0.1], 'kept': 2, 'knee': 2}]
    """
    heights = {name: _height(score_C) for name, score_C in scores.items()}
    gone = [float(heights[name][~mask_C].max()) for name, mask_C in kept.items() if not mask_C.all()]
    rows = []
    for name, height_C in heights.items():
        curve = torch.sort(height_C, descending=True).values.tolist()
        rows.append(
            {
                "group": name,
                "curve": [round(height, 4) for height in curve],
                "kept": int(kept[name].sum()),
                "knee": _knee(curve),
            }
        )
    return {"line": max(gone, default=0.0), "groups": rows}


def _height(score_C: Tensor) -> Tensor:
    """Return scores in parts of the largest; all 1 for a group of nothing but zeros."""
    score_C = score_C.double().cpu()
    largest = score_C.max()
    return score_C / largest if largest > 0 else torch.ones_like(score_C)


def _knee(curve: list[float]) -> int:
    """Return how many channels stand up to the point of a falling curve that is farthest from its chord."""
    last = len(curve) - 1
    away = [abs(height - curve[0] - (curve[-1] - curve[0]) * i / max(1, last)) for i, height in enumerate(curve)]
    return away.index(max(away)) + 1 if max(away) > 1e-9 else len(curve)
