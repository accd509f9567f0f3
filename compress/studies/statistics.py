"""From measured numbers to sentences: intervals over seeds, paired differences, tests by permutation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations
from statistics import NormalDist, fmean, stdev

import numpy as np

from compress.core.random import derived_seed

LEVEL = 0.95
#: So many random arrangements of labels are tried where all of them would be more.
NUM_ARRANGEMENTS = 9_999
#: Two statistics that differ by less are equal: sums in another order differ in the last digits.
TINY = 1e-9


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
    is_less_better: bool = False,
) -> str:
    """Return a sentence on a - b, paired over seeds.

    Args:
        a: What is judged.
        a_values: Its numbers by seed.
        b: What it is compared with.
        b_values: Its numbers by seed.
        unit: Of the difference times `scale`.
        scale: 100 turns parts of one into points.
        where: Under which condition ("at 2.1x fewer multiply-adds").
        is_less_better: Whether the smaller number wins, as it does of errors.

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
        verb = "beats" if gap.is_above != is_less_better else "loses to"
        return f"{a} {verb} {b} by {size} {unit}{at} {seeds}."
    signed = gap.text(scale=scale)
    return f"{a} against {b}{at}: not decided, {signed} {unit} {seeds}."


def best_of(values: Mapping[str, Mapping[int, float]]) -> str:
    """Return the name with the highest mean; of equal ones the first."""
    return max(values, key=lambda name: fmean(values[name].values()))


@dataclass(frozen=True)
class PermutationTest:
    """How often labels dealt out by chance give a statistic as large as the labels that things really have.

    Attributes:
        p: Part of the arrangements whose statistic is at least the observed one, in (0, 1].
        least: The smallest p that this test could have given: that of the arrangement with the largest statistic.
        num: Arrangements tried; beside a random sample the observed one counts too.
        is_exact: Whether they were all that there are.
    """

    p: float
    least: float
    num: int
    is_exact: bool

    @property
    def is_significant(self) -> bool:
        """Whether chance alone gives so large a statistic in at most 5 % of the arrangements."""
        return self.p <= 1 - LEVEL + TINY

    @property
    def is_possible(self) -> bool:
        """Whether any arrangement could have been significant; with few things none is."""
        return self.least <= 1 - LEVEL + TINY

    def text(self) -> str:
        """Return "p = 0.010, all 2,520 arrangements" or the like."""
        return f"p = {self.p:.2g}, {'all' if self.is_exact else 'a sample of'} {self.num:,} arrangements"


def permutation_test(
    statistic: Callable[[Sequence[str]], float], labels: Sequence[str], *, num: int = NUM_ARRANGEMENTS, seed: int = 0
) -> PermutationTest:
    """Test whether the statistic is larger than by chance, if all ways to deal out the labels are equally probable.

    Exact where all arrangements are at most `num`, p = #{statistic >= observed} / #arrangements. Elsewhere `num` random
    ones and p = (1 + #{statistic >= observed}) / (1 + num), which is never too small (Phipson and Smyth 2010).

    Args:
        statistic: Takes a label for each thing; large speaks against chance.
        labels: Those that the things have.
        num: Most arrangements to try.
        seed: Of the random ones.

    >>> permutation_test(lambda labels: float(labels[0] == labels[1]), "aabb").p  # aabb and bbaa, of 6
    0.3333333333333333
    """
    counts = Counter(labels)
    total = math.factorial(len(labels)) // math.prod(math.factorial(count) for count in counts.values())
    if is_exact := total <= num:
        values = [statistic(arrangement) for arrangement in _arrangements(counts)]
    else:
        chance = np.random.default_rng(derived_seed(seed, "permutation test"))
        values = [statistic([labels[k] for k in chance.permutation(len(labels))]) for _ in range(num)]
    extra = 0 if is_exact else 1
    observed = statistic(labels)
    highest = max(values) if is_exact else math.inf
    p, least = (
        (extra + sum(v >= bound - TINY for v in values)) / (extra + len(values)) for bound in (observed, highest)
    )
    return PermutationTest(p, least, len(values), is_exact)


def _arrangements(counts: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield every different order of labels of which `counts` says how many there are."""
    if not any(counts.values()):
        yield []
    for label, count in counts.items():
        if count:
            for rest in _arrangements({**counts, label: count - 1}):
                yield [label, *rest]


def pairs_of(labels: Sequence[str], values: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Return what pairs of things with equal labels have in common, and what those with different labels have.

    Args:
        labels: One a thing.
        values: By thing and thing, symmetric: a correlation, or another likeness.

    >>> pairs_of(["a", "a", "b"], [[1, 0.5, 0.1], [0.5, 1, 0.2], [0.1, 0.2, 1]])
    ([0.5], [0.1, 0.2])
    """
    same: list[float] = []
    other: list[float] = []
    for i, j in combinations(range(len(labels)), 2):
        (same if labels[i] == labels[j] else other).append(values[i][j])
    return same, other


def gap_test(labels: Sequence[str], values: Sequence[Sequence[float]]) -> PermutationTest:
    """Test whether things with equal labels are more alike than others: the labels are dealt out anew.

    Pairs share things, so that neither their spread nor their number says how sure a gap between their means is.

    Args:
        labels: One a thing; at least two are equal, and two differ.
        values: As for `pairs_of`.
    """

    def gap(dealt: Sequence[str]) -> float:
        same, other = pairs_of(dealt, values)
        return fmean(same) - fmean(other)

    return permutation_test(gap, labels)


def means_of(labels: Sequence[str], values: Sequence[Sequence[float]]) -> tuple[list[str], list[list[float | None]]]:
    """Return the labels, each once, and the mean of `values` by label and label; a thing beside itself does not count.

    >>> means_of(["a", "a", "b"], [[1, 0.5, 0.25], [0.5, 1, 0.75], [0.25, 0.75, 1]])
    (['a', 'b'], [[0.5, 0.5], [0.5, None]])
    """
    found: dict[tuple[str, str], list[float]] = {}
    for i, j in permutations(range(len(labels)), 2):
        found.setdefault((labels[i], labels[j]), []).append(values[i][j])
    names = list(dict.fromkeys(labels))
    return names, [[fmean(found[a, b]) if (a, b) in found else None for b in names] for a in names]


def unrelated_half(num_items: int, num_pairs: int = 1) -> float:
    """Return h: the mean rank correlation of `num_pairs` pairs of unrelated orders lies in 0 ± h 19 times in 20.

    Spearman's correlation of two independent orders of n items has the variance 1 / (n - 1), and those of several
    pairs are uncorrelated even if the pairs share orders. The mean is taken as normal, so h = 1.96 / √((n - 1) pairs).

    >>> round(unrelated_half(10, 4), 3)
    0.327
    """
    if num_items < 2 or num_pairs < 1:
        raise ValueError(f"{num_items} items in {num_pairs} pairs of orders: a correlation needs 2 items and 1 pair.")
    return NormalDist().inv_cdf((1 + LEVEL) / 2) / math.sqrt((num_items - 1) * num_pairs)


def corrected_correlation(r_ab: float, r_aa: float, r_bb: float, *, least: float = 0.0) -> float | None:
    """Return the correlation of a and b as it would be if both were measured without noise.

    r_ab / √(r_aa r_bb), for measurements whose repetitions correlate by r_aa and r_bb. It may exceed 1: all three
    are estimates.

    Args:
        r_ab: Correlation of the measurements.
        r_aa: Of two measurements of a.
        r_bb: Of two measurements of b.
        least: Where r_aa or r_bb is not above it, a correction would be mostly noise, and the answer is None.

    Reference: Spearman, The proof and measurement of association between two things, 1904.

    >>> corrected_correlation(0.4, 0.8, 0.5), corrected_correlation(0.4, 0.8, -0.1)
    (0.6324555320336759, None)
    """
    if min(r_aa, r_bb) <= max(least, 0.0):
        return None
    return r_ab / math.sqrt(r_aa * r_bb)
