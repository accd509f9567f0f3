"""Paired latency: things to compare take turns, so that a noisy machine disturbs all of them alike.

A machine that slows down for a second slows down every candidate of that round; the ratio inside
the round hardly moves. The answer is the median of those ratios with a bootstrap interval.

A machine whose memory others use slows some networks down more than others, for seconds: a network of odd widths was
seen at 1.16 and at 1.46 times its reference at batch 64, in turns of 5 to 20 s, in one session. Rounds that follow each
other are then not independent, so the interval comes from parts of the measurement, and a pause between the parts
spreads them over more of the machine's states.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from compress.core.garbage import no_collection
from compress.core.random import derived_seed

#: A sample repeats its call until it lasts this long, so that the clock's own error does not count.
SAMPLE_MIN_S = 1e-3
#: When a call is shorter than this, all run once untimed in front of each of their samples, which then find the caches
#: as they left them themselves and not as another network did; whether a sample holds one call or two would count.
COLD_BELOW_S = 20e-3
NUM_RESAMPLES = 2000
#: A measurement comes in so many parts: fewer give an interval that is too narrow, more have medians of too few rounds.
NUM_PARTS = 8


@dataclass(frozen=True)
class Ratio:
    """A median ratio with its 95 % interval.

    Attributes:
        value: Median over the rounds of a part, geometric mean over the parts.
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
        parts: The rounds come in so many equal parts, one after the other.
    """

    samples_ms: Mapping[str, tuple[float, ...]]
    seed: int = 0
    parts: int = 1

    @property
    def median_ms(self) -> dict[str, float]:
        """Median time of one call, by name."""
        return {name: float(np.median(times)) for name, times in self.samples_ms.items()}

    def ratio(self, numerator: str, denominator: str) -> Ratio:
        """Return how many times longer `numerator` takes than `denominator`.

        The median of the per-round ratios (the geometric mean of the parts' medians), and the 2.5 % and 97.5 %
        quantiles of that number over resampled parts and, inside them, rounds. Equal samples and seed give equal
        intervals.

        >>> PairedLatency({"a": (2.0, 4.0, 6.0), "b": (1.0, 2.0, 3.0)}).ratio("a", "b")
        Ratio(value=2.0, low=2.0, high=2.0)
        """
        a_R, b_R = np.asarray(self.samples_ms[numerator]), np.asarray(self.samples_ms[denominator])
        ratios_PR = (a_R / b_R).reshape(self.parts, -1)
        chance = np.random.default_rng(derived_seed(self.seed, "bootstrap", numerator, denominator))
        num_parts, num_rounds = ratios_PR.shape
        part_NP1 = chance.integers(num_parts, size=(NUM_RESAMPLES, num_parts, 1))
        round_NPR = chance.integers(num_rounds, size=(NUM_RESAMPLES, num_parts, num_rounds))
        low, high = np.quantile(_middle(ratios_PR[part_NP1, round_NPR]), (0.025, 0.975))
        return Ratio(float(_middle(ratios_PR)), float(low), float(high))

    def as_json(self) -> dict[str, Any]:
        """JSON with what `from_json` needs, and the medians for the reader."""
        samples = {name: list(times) for name, times in self.samples_ms.items()}
        return {"median_ms": self.median_ms, "samples_ms": samples, "seed": self.seed, "parts": self.parts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `as_json` wrote."""
        samples_ms = {name: tuple(times) for name, times in data["samples_ms"].items()}
        return cls(samples_ms, int(data["seed"]), int(data["parts"]))


def paired_latency(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 60,
    warmup: int = 10,
    seed: int = 0,
    pause_s: float = 0.0,
) -> PairedLatency:
    """Time `calls` against each other: every round runs each of them once, in a shuffled order.

    A call that takes less than 1 ms is repeated inside its sample until the sample lasts that long. When one takes less
    than 20 ms, all run once untimed in front of each sample, so that samples are of warm caches.

    Args:
        calls: What to time, by name; each must do the same work every time.
        rounds: Samples of each call; rounded up to a multiple of the number of parts.
        warmup: Calls of each that are not timed.
        seed: Seeds the order and the bootstrap.
        pause_s: Seconds of rest between two parts.
    """
    if not calls or rounds < 1:
        raise ValueError(f"paired_latency: {len(calls)} calls in {rounds} rounds; give at least one of each.")
    parts = min(NUM_PARTS, rounds)
    rounds_per_part = math.ceil(rounds / parts)
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
        for number in range(parts * rounds_per_part):
            if number and number % rounds_per_part == 0:
                time.sleep(pause_s)
            for position in chance.permutation(len(names)):
                name = names[position]
                if is_short:
                    calls[name]()
                samples_ms[name].append(1e3 * _elapsed_s(calls[name], repeats[name]) / repeats[name])
    return PairedLatency({name: tuple(times_ms) for name, times_ms in samples_ms.items()}, seed, parts)


def _middle(ratios_PR: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the geometric mean over parts of the median over their rounds, for ratios (…, P, R)."""
    medians_P: NDArray[np.float64] = np.median(ratios_PR, axis=-1)
    return medians_P[..., 0] if medians_P.shape[-1] == 1 else np.exp(np.log(medians_P).mean(axis=-1))


def _repeats(call: Callable[[], object]) -> int:
    """Return how often `call` must run for one sample of `SAMPLE_MIN_S`."""
    repeats = 1
    while (elapsed_s := _elapsed_s(call, repeats)) < SAMPLE_MIN_S:
        repeats = max(2 * repeats, math.ceil(repeats * SAMPLE_MIN_S / max(elapsed_s, 1e-7)))
    return repeats


def _elapsed_s(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - start
