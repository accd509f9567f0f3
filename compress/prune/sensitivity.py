"""Sensitivity: what the network loses when one group is cut alone, and whether two networks agree about that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from compress.core.progress import track
from compress.graph.units import BLOCKS
from compress.prune.allocators.family import Widths, best
from compress.prune.trials import Judge, masks_key

Kind = Literal["channels", "block"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Losses of networks of which one group, or one block, is cut and nothing else. The first is the whole network.

    Attributes:
        group: Name of the group, or path of the block.
        kind: What it is.
        kept: Channels left; 1 and 0 for a block.
        ratios: The same as parts of the group.
        losses: Mean loss on validation inputs, batch norm recalibrated.
        accuracies: On the same inputs, in [0, 1].
        macs: Multiply-adds for one input.
        params: Parameters.
        keys: Name of each cut, as `masks_key` gives it.
    """

    group: str
    kind: Kind
    kept: tuple[int, ...]
    ratios: tuple[float, ...]
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    macs: tuple[float, ...]
    params: tuple[float, ...]
    keys: tuple[str, ...]

    @property
    def damage(self) -> float:
        """Mean of what the loss gains over the cuts."""
        return float(np.mean(np.subtract(self.losses[1:], self.losses[0])))

    def as_json(self) -> dict[str, Any]:
        """JSON that `Curve.from_json` reads."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Curve:
        """Read what `as_json` wrote."""
        columns: dict[str, Any] = {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
        return cls(**{**data, **columns})


def curves(scores: Mapping[str, Tensor], judge: Judge, ratios: Sequence[float]) -> list[Curve]:
    """Return the curve of every group, then of every block, each cut alone.

    Args:
        scores: Worth of the channels (C,) by group; the best of each group stay.
        judge: Judges the cuts.
        ratios: Kept parts of a group, in (0, 1). Rounded down, but not below the smallest of them rounded up.
    """
    plans: list[tuple[str, Kind, list[dict[str, Tensor]]]] = []
    for name, score_C in scores.items():
        own = Widths(len(score_C), min_kept_ratio=min(ratios), round_to=1)
        counts = {own.down(ratio * len(score_C)) for ratio in ratios} - {len(score_C)}
        masks = [{name: best(score_C, count)} for count in sorted(counts, reverse=True)]
        plans += [(name, "channels", masks)] if masks else []
    order_L = torch.arange(len(judge.blocks))
    plans += [(block.name, "block", [{BLOCKS: order_L != place}]) for place, block in enumerate(judge.blocks)]
    whole = judge({})
    return [
        _curve(name, kind, [{}, *masks], [whole, *map(judge, masks)])
        for name, kind, masks in track(plans, total=len(plans), what="sensitivity")
    ]


def _curve(name: str, kind: Kind, cuts: list[dict[str, Tensor]], found: list[dict[str, float]]) -> Curve:
    whole = len(cuts[1][name]) if kind == "channels" else 1
    left = (int(next(iter(masks.values())).sum()) if kind == "channels" else 0 for masks in cuts[1:])
    kept = (whole, *left)
    columns = {name: tuple(one[name] for one in found) for name in ("macs", "params")}
    return Curve(
        group=name,
        kind=kind,
        kept=kept,
        ratios=tuple(count / whole for count in kept),
        losses=tuple(one["loss"] for one in found),
        accuracies=tuple(one["accuracy"] for one in found),
        keys=tuple(masks_key(masks) for masks in cuts),
        **columns,
    )


def agreement(one: Sequence[Curve], other: Sequence[Curve], *, kind: Kind = "channels") -> dict[str, float | None]:
    """Return how far two networks agree about which of their groups are sensitive.

    Args:
        one: Curves of the first network.
        other: Of the second; groups that only one of them has are left out.
        kind: Whether groups of channels or blocks are compared.

    Returns:
        "spearman" and "kendall" of the damage by group, in [-1, 1], None where there is no order to compare;
        "num_groups" that were compared.

    Raises:
        ValueError: The curves were measured at different numbers of channels.
    """
    left, right = ({curve.group: curve for curve in side if curve.kind == kind} for side in (one, other))
    names = [name for name in left if name in right]
    for name in names:
        if left[name].kept != right[name].kept:
            raise ValueError(
                f"{name} was cut to {left[name].kept} in one and {right[name].kept} in the other: measure both with "
                f"the same ratios."
            )
    damages = [[side[name].damage for name in names] for side in (left, right)]
    found: dict[str, float | None] = {"num_groups": float(len(names))}
    for measure in (spearman, kendall):
        value = measure(*damages)
        found[measure.__name__] = None if np.isnan(value) else value
    return found


def spearman(x_N: ArrayLike, y_N: ArrayLike) -> float:
    """Return the correlation of the ranks, ties sharing the mean of theirs; NaN where one side has no order.

    >>> round(spearman([1, 2, 3, 4], [1, 2, 4, 3]), 12)
    0.8
    """
    ranks = [_ranks(np.asarray(side, dtype=float)) for side in (x_N, y_N)]
    away = [side - side.mean() if len(side) else side for side in ranks]
    scale = np.sqrt((away[0] ** 2).sum() * (away[1] ** 2).sum())
    return float((away[0] * away[1]).sum() / scale) if scale > 0 else float("nan")


def kendall(x_N: ArrayLike, y_N: ArrayLike) -> float:
    """Return Kendall's tau-b: pairs in the same order less those in the opposite one; NaN where one side has no order.

    >>> round(kendall([1, 2, 3, 4], [1, 2, 4, 3]), 12)
    0.666666666667
    """
    signs = []
    for side in (x_N, y_N):
        values = np.asarray(side, dtype=float)
        signs.append(np.sign(values[:, None] - values[None, :]))
    scale = np.sqrt((signs[0] ** 2).sum() * (signs[1] ** 2).sum())
    return float((signs[0] * signs[1]).sum() / scale) if scale > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return middle
