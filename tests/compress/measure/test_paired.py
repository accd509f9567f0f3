"""Paired latency: ratios that survive a noisy machine."""

from __future__ import annotations

import gc
import json
import time

import numpy as np
import pytest

from compress.measure import paired
from compress.measure.paired import NUM_PARTS, SAMPLE_MIN_S, PairedLatency, Ratio, paired_latency


def _sleep(seconds: float):
    return lambda: time.sleep(seconds)


def _wait(milliseconds: float) -> None:
    """Do nothing for a while, without `time.sleep`."""
    end_s = time.perf_counter() + milliseconds / 1e3
    while time.perf_counter() < end_s:
        pass


def test_sleeping_twice_as_long_gives_a_ratio_of_two() -> None:
    times = paired_latency({"slow": _sleep(0.02), "fast": _sleep(0.01)}, rounds=20, warmup=1)
    ratio = times.ratio("slow", "fast")
    assert ratio.value == pytest.approx(2, rel=0.2)
    assert 1 < ratio.low <= ratio.value <= ratio.high < 4, "other work on the machine may widen it, not this far"
    inverse = times.ratio("fast", "slow")
    assert inverse.value == pytest.approx(1 / ratio.value, rel=0.02)


def test_the_same_call_gives_a_ratio_of_one() -> None:
    work = np.ones(200_000).sum
    times = paired_latency({"a": work, "b": work}, rounds=60, warmup=3)
    ratio = times.ratio("a", "b")
    assert ratio.low < 1.1
    assert ratio.high > 0.9
    assert times.ratio("a", "a") == Ratio(1, 1, 1)


def test_a_machine_that_slows_down_does_not_move_the_ratio() -> None:
    speed_R = np.linspace(1, 5, 40)
    times = PairedLatency({"a": tuple(3 * speed_R), "b": tuple(2 * speed_R)})
    assert times.ratio("a", "b") == Ratio(1.5, 1.5, 1.5)


def test_a_few_hiccups_do_not_move_the_ratio() -> None:
    a_R = np.full(40, 3.0)
    a_R[[3, 17, 30]] = 300
    assert PairedLatency({"a": tuple(a_R), "b": (2.0,) * 40}).ratio("a", "b") == Ratio(1.5, 1.5, 1.5)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    chance = np.random.default_rng(7)
    covered = 0
    for _ in range(100):
        noise_R = chance.lognormal(0, 0.2, size=41)
        ratio = PairedLatency({"a": tuple(2 * noise_R), "b": (1.0,) * 41}).ratio("a", "b")
        covered += ratio.low <= 2 <= ratio.high
    assert 88 <= covered <= 100


def test_the_interval_depends_only_on_samples_and_seed() -> None:
    noise_R = np.random.default_rng(1).lognormal(0, 0.5, size=31)
    samples = {"a": tuple(noise_R), "b": (1.0,) * 31}
    first, again, other = (PairedLatency(samples, seed).ratio("a", "b") for seed in (0, 0, 1))
    assert first == again
    assert first.low < first.value < first.high
    assert first.value == other.value
    assert other.low == pytest.approx(first.low, rel=0.1)
    assert {first.low, first.high} <= {*noise_R}, "the median of an odd number of rounds is one of them"


def test_json_round_trip() -> None:
    times = paired_latency({"a": _sleep(0), "b": _sleep(0)}, rounds=10, warmup=0, seed=3)
    data = json.loads(json.dumps(times.as_json()))
    assert PairedLatency.from_json(data) == times
    assert data["median_ms"] == times.median_ms
    assert PairedLatency.from_json(data).ratio("a", "b") == times.ratio("a", "b")
    assert times.ratio("a", "b").as_json().keys() == {"value", "low", "high"}


def test_medians_by_hand() -> None:
    assert PairedLatency({"a": (1.0, 9.0, 2.0)}).median_ms == {"a": 2.0}


def test_every_round_runs_each_call_once_and_orders_differ() -> None:
    order: list[str] = []

    def call(name: str):
        def run() -> None:
            order.append(name)
            time.sleep(1.1 * SAMPLE_MIN_S)

        return run

    paired_latency({"a": call("a"), "b": call("b"), "c": call("c")}, rounds=8, warmup=2, seed=0)
    assert order[:6] == ["a", "a", "b", "b", "c", "c"], "warm-up"
    samples = list(zip(order[15::2], order[16::2], strict=True))
    assert all(cold == timed for cold, timed in samples), "each sample follows a call of its own"
    rounds = [tuple(timed for _, timed in samples[3 * k : 3 * k + 3]) for k in range(8)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(rounds)) > 1


def test_the_rounds_come_in_parts_with_a_rest_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"ms": 2.0, "now_s": 0.0}

    def wait(ms: float) -> None:
        state["now_s"] += ms / 1e3

    monkeypatch.setattr(paired.time, "perf_counter", lambda: state["now_s"])
    monkeypatch.setattr(paired.time, "sleep", lambda _: state.update(ms=8.0 - state["ms"]))
    times = paired_latency({"new": lambda: wait(state["ms"]), "old": lambda: wait(4)}, rounds=18, pause_s=1.0)
    assert times.parts == NUM_PARTS == 8
    assert len(times.samples_ms["new"]) == 24, "three rounds in each of eight parts"
    middles_P = np.median(np.reshape(times.samples_ms["new"], (8, 3)), axis=1)
    assert list(np.round(middles_P)) == [2, 6] * 4
    ratio = times.ratio("new", "old")
    assert ratio.value == pytest.approx((0.5 * 1.5) ** 0.5, rel=0.1)
    assert ratio.low < 0.75, "an interval of parts reaches towards the fast ones"
    assert ratio.high > 1.0, "and towards the slow ones"


def test_an_interval_of_parts_covers_the_truth_where_one_of_rounds_does_not() -> None:
    chance, covered = np.random.default_rng(3), {1: 0, 8: 0}
    for _ in range(100):
        state_P1 = chance.lognormal(0, 0.2, size=(8, 1))
        noise_R = (state_P1 * chance.lognormal(0, 0.02, size=(8, 5))).ravel()
        for parts in covered:
            ratio = PairedLatency({"a": tuple(noise_R), "b": (1.0,) * 40}, parts=parts).ratio("a", "b")
            covered[parts] += ratio.low <= 1 <= ratio.high
    assert covered[8] >= 85
    assert covered[8] > covered[1] + 10


def test_short_calls_are_repeated_inside_a_sample() -> None:
    num_calls = 0

    def short() -> None:
        nonlocal num_calls
        num_calls += 1

    times = paired_latency({"short": short}, rounds=3, warmup=0)
    assert num_calls > 3 * 1000, "a microsecond's work fills a millisecond"
    assert times.median_ms["short"] < 0.01


def test_the_collector_is_restored_after_an_error() -> None:
    calls = iter([None, None])
    with pytest.raises(StopIteration):
        paired_latency({"a": lambda: next(calls)}, rounds=2, warmup=1)
    assert gc.isenabled()


@pytest.mark.parametrize(("calls", "rounds"), [({}, 3), ({"a": _sleep(0)}, 0)])
def test_nothing_to_time(calls, rounds: int) -> None:
    with pytest.raises(ValueError, match="give at least one"):
        paired_latency(calls, rounds=rounds)
