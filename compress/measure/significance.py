"""What a test set can tell: intervals of an accuracy, and how a loss of accuracy is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.core.random import generator
from compress.core.registry import Family

#: Normal quantiles of a two-sided 95 % interval and of a one-sided 95 % bound.
Z_TWO_SIDED = 1.959963984540054
NUM_RESAMPLES = 10_000


def wilson_interval(num_correct: float, num_inputs: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy.

    Args:
        num_correct: Right answers.
        num_inputs: Answers, at least 1.

    Reference: Wilson, "Probable inference", JASA 1927.

    >>> [round(end, 4) for end in wilson_interval(8, 10)]
    [0.4902, 0.9433]
    """
    assert num_inputs > 0
    assert 0 <= num_correct <= num_inputs
    p, z2 = num_correct / num_inputs, Z_TWO_SIDED**2
    centre = p + z2 / (2 * num_inputs)
    half = Z_TWO_SIDED * math.sqrt(p * (1 - p) / num_inputs + z2 / (4 * num_inputs**2))
    scale = 1 + z2 / num_inputs
    return max(0.0, round((centre - half) / scale, 12)), min(1.0, round((centre + half) / scale, 12))


@dataclass(frozen=True, kw_only=True)
class Drop:
    """How much accuracy was lost against a reference, on the same inputs.

    Attributes:
        judged: The number that is held against the limit.
        point: Accuracy of the reference minus accuracy of the candidate.
        low: Lower end of the 95 % interval of `point`.
        high: Upper end of the 95 % interval of `point`.
    """

    judged: float
    point: float
    low: float
    high: float


#: (reference_correct_N, correct_N) -> Drop, both holding 1 for a right answer on the same inputs.
RULES: Family[Callable[..., Drop]] = Family("rule", data=("reference_correct_N", "correct_N"))


def resampled_drops(reference_correct_N: Tensor, correct_N: Tensor, *, seed: int = 0) -> Tensor:
    """Return the accuracy drop of `NUM_RESAMPLES` paired bootstrap samples, sorted.

    Drawing N inputs with replacement is drawing from three kinds (lost, gained, equal), so the counts
    are drawn from their multinomial distribution instead of the inputs themselves: same law, no N in the cost.
    """
    assert len(reference_correct_N) == len(correct_N) > 0
    num_inputs = len(correct_N)
    change_N = reference_correct_N.double() - correct_N.double()
    lost, gained = int((change_N > 0).sum()), int((change_N < 0).sum())
    draw = generator(seed, "paired bootstrap")
    total = torch.full((NUM_RESAMPLES,), float(num_inputs), dtype=torch.float64)
    lost_R = torch.binomial(total, torch.full_like(total, lost / num_inputs), generator=draw)
    rest = max(num_inputs - lost, 1)
    gained_R = torch.binomial(total - lost_R, torch.full_like(total, gained / rest), generator=draw)
    return ((lost_R - gained_R) / num_inputs).sort().values


def _drop(reference_correct_N: Tensor, correct_N: Tensor, seed: int) -> tuple[float, Tensor, Tensor]:
    drops_R = resampled_drops(reference_correct_N, correct_N, seed=seed)
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    point = (reference_correct_N.double().sum() - correct_N.double().sum()) / len(correct_N)
    return float(point), drops_R, drops_R.quantile(quantiles)


@RULES.register("point")
def point(reference_correct_N: Tensor, correct_N: Tensor, *, seed: int = 0) -> Drop:
    """Judge the measured drop itself; the interval is told, not judged.

    judged = mean(reference_correct) - mean(correct)

    Right for small test sets, on which an interval is wider than any limit worth having.

    Args:
        reference_correct_N: 1 where the reference is right, else 0 (N,).
        correct_N: 1 where the candidate is right, else 0 (N,), same inputs.
        seed: Of the bootstrap.

    Returns:
        Drop; every number in [-1, 1], positive = accuracy lost.

    Differs from the paper: no paper.

    Cost: 10 000 pairs of binomial numbers.

    Reference: interval as in `lower_bound`.

    >>> point(torch.tensor([1, 1, 1, 0]), torch.tensor([1, 1, 0, 0])).judged
    0.25
    """
    value, _, interval = _drop(reference_correct_N, correct_N, seed)
    return Drop(judged=value, point=value, low=float(interval[0]), high=float(interval[1]))


@RULES.register("lower_bound", paper="Efron 1979")
def lower_bound(reference_correct_N: Tensor, correct_N: Tensor, *, seed: int = 0) -> Drop:
    """Judge the drop that is not exceeded with 95 % certainty.

    judged = 95 % quantile of the drop over paired bootstrap samples, that is: the one-sided 95 %
    lower bound of the candidate's accuracy, relative to the reference's.

    Args:
        reference_correct_N: 1 where the reference is right, else 0 (N,).
        correct_N: 1 where the candidate is right, else 0 (N,), same inputs.
        seed: Of the bootstrap.

    Returns:
        Drop; every number in [-1, 1], positive = accuracy lost.

    Differs from the paper: counts are drawn instead of inputs; the law is the same.

    Cost: 10 000 pairs of binomial numbers.

    Reference: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 1979, section 2.

    Equal answers leave no doubt, however few they are:

    >>> lower_bound(torch.tensor([1, 1, 1, 0]), torch.tensor([1, 1, 1, 0])).judged
    0.0
    """
    value, drops_R, interval = _drop(reference_correct_N, correct_N, seed)
    return Drop(judged=float(drops_R.quantile(0.95)), point=value, low=float(interval[0]), high=float(interval[1]))
