"""The trade of a cascade: for every threshold, what is deferred, what is right and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Thresholds that defer nothing and everything; a score in [0, 1] is deferred when it is above.
DEFER_NONE, DEFER_ALL = 1.0, -1.0


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Every distinct way of cutting a validation set in two, from deferring nothing to everything.

    Attributes:
        threshold_T: An input is deferred when its score is above; falling, from 1 to -1.
        deferred_T: Share of the inputs that go to the large network; rising, from 0 to 1.
        accuracy_T: Share of right answers of the cascade, 0..1.
        macs_T: Expected multiply-adds of one input: small + deferred * large.
        small_macs: Multiply-adds of the small network.
        large_macs: Multiply-adds of the large network.
    """

    threshold_T: Tensor
    deferred_T: Tensor
    accuracy_T: Tensor
    macs_T: Tensor
    small_macs: float
    large_macs: float

    def __len__(self) -> int:
        return len(self.threshold_T)

    @property
    def small_accuracy(self) -> float:
        """Accuracy when nothing is deferred."""
        return float(self.accuracy_T[0])

    @property
    def large_accuracy(self) -> float:
        """Accuracy when everything is deferred."""
        return float(self.accuracy_T[-1])

    @property
    def macs_ratio_T(self) -> Tensor:
        """Expected multiply-adds in parts of the large network's."""
        return self.macs_T / self.large_macs

    def point(self, index: int) -> dict[str, float]:
        """Return one cut as JSON."""
        return {
            "threshold": float(self.threshold_T[index]),
            "deferred": float(self.deferred_T[index]),
            "accuracy": float(self.accuracy_T[index]),
            "expected_macs_ratio": float(self.macs_ratio_T[index]),
        }

    def as_json(self, num_points: int = 64) -> list[dict[str, float]]:
        """Return at most `num_points` cuts, evenly spread and with both ends."""
        index = torch.linspace(0, len(self) - 1, min(num_points, len(self))).round().long()
        return [self.point(i) for i in index.tolist()]


def curve_of(
    score_N: Tensor, small_correct_N: Tensor, large_correct_N: Tensor, *, small_macs: float, large_macs: float
) -> Curve:
    """Return the curve of a validation set.

    Thresholds lie midway between neighbouring scores, so that they are as far from the inputs
    that chose them as can be. Inputs of equal score are deferred together.

    Args:
        score_N: Confidence scores of the small network (N,), in [0, 1], higher = defer.
        small_correct_N: 1 where the small network is right (N,).
        large_correct_N: 1 where the large network is right (N,).
        small_macs: Multiply-adds of the small network.
        large_macs: Multiply-adds of the large network.

    >>> scores, small, large = torch.tensor([0.25, 0.75]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    >>> curve = curve_of(scores, small, large, small_macs=1, large_macs=4)
    >>> curve.deferred_T.tolist(), curve.accuracy_T.tolist(), curve.macs_T.tolist()
    ([0.0, 0.5, 1.0], [0.5, 1.0, 1.0], [1.0, 3.0, 5.0])
    >>> curve.threshold_T.tolist()
    [1.0, 0.5, -1.0]
    """
    assert len(score_N) == len(small_correct_N) == len(large_correct_N) > 0
    num_inputs = len(score_N)
    sorted_N, order_N = score_N.double().sort(descending=True, stable=True)
    gain_N = (large_correct_N.double() - small_correct_N.double())[order_N]
    start = small_correct_N.double().sum()
    correct = torch.cat([start[None], start + gain_N.cumsum(0)])
    is_cut = torch.ones(num_inputs + 1, dtype=torch.bool)
    is_cut[1:-1] = sorted_N[1:] < sorted_N[:-1]
    threshold = torch.full((num_inputs + 1,), DEFER_NONE, dtype=torch.float64)
    threshold[1:-1] = (sorted_N[1:] + sorted_N[:-1]) / 2
    threshold[-1] = DEFER_ALL
    deferred = torch.arange(num_inputs + 1, dtype=torch.float64) / num_inputs
    return Curve(
        threshold_T=threshold[is_cut],
        deferred_T=deferred[is_cut],
        accuracy_T=(correct / num_inputs)[is_cut],
        macs_T=(small_macs + deferred * large_macs)[is_cut],
        small_macs=float(small_macs),
        large_macs=float(large_macs),
    )


def bounds_at(deferred: float, small_correct_N: Tensor, large_correct_N: Tensor) -> dict[str, Any]:
    """Return what the worst sensible and the best possible router reach at the same deferred share.

    Args:
        deferred: Share of inputs that go to the large network, 0..1.
        small_correct_N: 1 where the small network is right (N,).
        large_correct_N: 1 where the large network is right (N,).

    Returns:
        random_accuracy: Expected accuracy when the share is drawn by lot.
        oracle_accuracy: Accuracy when deferring first where only the large network is right,
            then where both are equally good, last where only the small one is right.
        oracle_deferred: Share that an oracle defers to gain all there is to gain.

    >>> bounds_at(0.5, torch.tensor([1.0, 1, 0, 0]), torch.tensor([1.0, 0, 1, 1]))
    {'random_accuracy': 0.625, 'oracle_accuracy': 1.0, 'oracle_deferred': 0.5}
    """
    gain_N = large_correct_N.double() - small_correct_N.double()
    num_deferred = round(deferred * len(gain_N))
    best = gain_N.sort(descending=True).values[:num_deferred].sum()
    base = small_correct_N.double().mean()
    return {
        "random_accuracy": float(base + deferred * gain_N.mean()),
        "oracle_accuracy": float(base + best / len(gain_N)),
        "oracle_deferred": float((gain_N > 0).double().mean()),
    }
