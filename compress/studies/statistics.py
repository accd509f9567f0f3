"""From measured numbers to sentences: intervals over seeds and paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval.

    Attributes:
        mean: Of the values.
        half: Half the width of the interval; None for a single value, which tells nothing of its spread.
        num: Number of values.
    """

    mean: float
    half: float | None
    num: int

    @property
    def is_above(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.half is not None and self.mean - self.half > 0

    @property
    def is_below(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.half is not None and self.mean + self.half < 0

    def text(self, *, scale: float = 1.0, digits: int = 2) -> str:
        """Return "mean ± half", both times `scale`.

        >>> Estimate(0.912, 0.003, 3).text(scale=100)
        '91.20 ± 0.30'
        """
        middle = f"{scale * self.mean:.{digits}f}"
        return middle if self.half is None else f"{middle} ± {scale * self.half:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of independent values and its interval by Student's t.

    mean ± t(0.975, n - 1) s / √n

    >>> found = estimate([1.0, 2.0, 3.0])
    >>> found.mean, round(found.half, 3)
    (2.0, 2.484)
    """
    if not values:
        raise ValueError("no values to average: run at least one seed.")
    if len(values) == 1:
        return Estimate(float(values[0]), None, 1)
    half = t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(fmean(values), half, len(values))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate:
    """Return the estimate of a - b over the seeds that both have: what seeds share drops out.

    >>> paired({0: 3.0, 1: 5.0}, {0: 2.0, 1: 4.0, 2: 9.0})
    Estimate(mean=1.0, half=0.0, num=2)
    """
    seeds = sorted(set(a) & set(b))
    if not seeds:
        raise ValueError("the two have no seed in common, so they cannot be paired: run the same seeds for both.")
    return estimate([a[seed] - b[seed] for seed in seeds])


@cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """Return t with P(|T| <= t) = level for Student's distribution with `freedom` >= 1 degrees of freedom.

    >>> [round(t_quantile(n), 3) for n in (1, 2, 9, 100)]
    [12.706, 4.303, 2.262, 1.984]
    """
    assert freedom >= 1
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """Return P(|T| <= t), by the finite series for whole degrees of freedom (Abramowitz and Stegun 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    term = cosine if freedom % 2 else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    if freedom % 2:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def comparison(
    a: str,
    a_values: Mapping[int, float],
    b: str,
    b_values: Mapping[int, float],
    *,
    unit: str = "points",
    scale: float = 100.0,
    where: str = "",
) -> str:
    """Return a sentence on a - b, paired over seeds; larger is better.

    Args:
        a: What is judged.
        a_values: Its numbers by seed.
        b: What it is compared with.
        b_values: Its numbers by seed.
        unit: Of the difference times `scale`.
        scale: 100 turns parts of one into points.
        where: Under which condition ("at 2.1x fewer multiply-adds").

    >>> comparison("taylor", {0: 0.91, 1: 0.92}, "random", {0: 0.89, 1: 0.90}, where="at 2.1x")
    'taylor beats random by 2.00 ± 0.00 points at 2.1x (2 seeds).'
    """
    gap = paired(a_values, b_values)
    at = f" {where}" if where else ""
    size = Estimate(abs(gap.mean), gap.half, gap.num).text(scale=scale)
    seeds = f"({gap.num} seed{'s' if gap.num > 1 else ''}{'' if gap.num > 1 else ', so no interval'})"
    if gap.half is None:
        way = "above" if gap.mean >= 0 else "below"
        return f"{a} is {size} {unit} {way} {b}{at} {seeds}."
    if gap.is_above or gap.is_below:
        verb = "beats" if gap.is_above else "loses to"
        return f"{a} {verb} {b} by {size} {unit}{at} {seeds}."
    signed = gap.text(scale=scale)
    return f"{a} and {b} show no difference beyond noise{at}: {signed} {unit} {seeds}."


def best_of(values: Mapping[str, Mapping[int, float]]) -> str:
    """Return the name with the highest mean; of equal ones the first."""
    return max(values, key=lambda name: fmean(values[name].values()))
