"""Paired latency: things to compare take turns, so that a noisy machine disturbs all of them alike.

A machine that slows down for a second slows down every candidate of that round; the ratio inside
the round hardly moves. The answer is the median of those ratios with a bootstrap interval.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Self

import numpy as np

from compress.core.garbage import no_collection
from compress.core.random import derived_seed

#: A sample repeats its call until it lasts this long, so that the clock's own error does not count.
SAMPLE_MIN_S = 1e-3
#: When a call is shorter than this, all run once untimed in front of each of their samples, which then find the caches
#: as they left them themselves and not as another network did; whether a sample holds one call or two would count.
COLD_BELOW_S = 20e-3
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """A median ratio with its 95 % interval.

    Attributes:
        value: Median over the rounds.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class PairedLatency:
    """Times of several calls that took turns.

    Attributes:
        samples_ms: By name, the time of one call in every round; index k of each belongs to round k.
        seed: Seeds the order inside the rounds and the bootstrap.
    """

    samples_ms: Mapping[str, tuple[float, ...]]
    seed: int = 0

    @property
    def median_ms(self) -> dict[str, float]:
        """Median time of one call, by name."""
        return {name: float(np.median(times)) for name, times in self.samples_ms.items()}

    def ratio(self, numerator: str, denominator: str) -> Ratio:
        """Return how many times longer `numerator` takes than `denominator`.

        The median of the per-round ratios, and the 2.5 % and 97.5 % quantiles of that median
        over resampled rounds. Equal samples and seed give equal intervals.

        >>> PairedLatency({"a": (2.0, 4.0, 6.0), "b": (1.0, 2.0, 3.0)}).ratio("a", "b")
        Ratio(value=2.0, low=2.0, high=2.0)
        """
        a_R, b_R = np.asarray(self.samples_ms[numerator]), np.asarray(self.samples_ms[denominator])
        ratios_R = a_R / b_R
        chance = np.random.default_rng(derived_seed(self.seed, "bootstrap", numerator, denominator))
        drawn_NR = chance.choice(ratios_R, size=(NUM_RESAMPLES, len(ratios_R)))
        low, high = np.quantile(np.median(drawn_NR, axis=1), (0.025, 0.975))
        return Ratio(float(np.median(ratios_R)), float(low), float(high))

    def as_json(self) -> dict[str, Any]:
        """JSON with what `from_json` needs, and the medians for the reader."""
        samples = {name: list(times) for name, times in self.samples_ms.items()}
        return {"median_ms": self.median_ms, "samples_ms": samples, "seed": self.seed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `as_json` wrote."""
        return cls({name: tuple(times) for name, times in data["samples_ms"].items()}, int(data["seed"]))


def paired_latency(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 60, warmup: int = 10, seed: int = 0
) -> PairedLatency:
    """Time `calls` against each other: every round runs each of them once, in a shuffled order.

    A call that takes less than 1 ms is repeated inside its sample until the sample lasts that long. When one takes less
    than 20 ms, all run once untimed in front of each sample, so that samples are of warm caches.

    Args:
        calls: What to time, by name; each must do the same work every time.
        rounds: Samples of each call.
        warmup: Calls of each that are not timed.
        seed: Seeds the order and the bootstrap.
    """
    if not calls or rounds < 1:
        raise ValueError(f"paired_latency: {len(calls)} calls in {rounds} rounds; give at least one of each.")
    for call in calls.values():
        for _ in range(warmup):
            call()
    names = list(calls)
    chance = np.random.default_rng(derived_seed(seed, "order"))
    samples_ms: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    with no_collection():
        repeats = {name: _repeats(call) for name, call in calls.items()}
        is_short = min(_elapsed_s(call, 1) for call in calls.values() for _ in range(2)) < COLD_BELOW_S
        for _ in range(rounds):
            for position in chance.permutation(len(names)):
                name = names[position]
                if is_short:
                    calls[name]()
                samples_ms[name].append(1e3 * _elapsed_s(calls[name], repeats[name]) / repeats[name])
    return PairedLatency({name: tuple(times) for name, times in samples_ms.items()}, seed)


def _repeats(call: Callable[[], object]) -> int:
    """Return how often `call` must run for one sample of `SAMPLE_MIN_S`."""
    repeats = 1
    while (elapsed_s := _elapsed_s(call, repeats)) < SAMPLE_MIN_S:
        repeats = max(2 * repeats, math.ceil(repeats * SAMPLE_MIN_S / max(elapsed_s, 1e-7)))
    return repeats


def _elapsed_s(call: Callable[[], object], repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        call()
    return perf_counter() - start
