import pytest
import torch

from compress.core.random import generator
from compress.measure.significance import RULES, point, resampled_drops, wilson_interval


def test_wilson_by_hand():
    assert wilson_interval(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)
    assert wilson_interval(0, 10)[1] == pytest.approx(1.959964**2 / (10 + 1.959964**2), abs=1e-6)


def flags(*runs):
    return torch.cat([torch.full((num,), float(value)) for value, num in runs])


def test_counts_follow_the_law_of_resampled_inputs():
    """30 lost, 10 gained, 960 equal: mean 0.02, variance (p+ + p- - mean²) / N."""
    reference, candidate = flags((1, 30), (0, 10), (1, 960)), flags((0, 30), (1, 10), (1, 960))
    drops_R = resampled_drops(reference, candidate)
    assert float(drops_R.mean()) == pytest.approx(0.02, abs=3e-4)
    assert float(drops_R.var()) == pytest.approx((0.04 - 0.02**2) / 1000, rel=0.06)
    slow = torch.stack(
        [
            (reference - candidate)[torch.randint(1000, (1000,), generator=generator(0, "boot", k))].mean()
            for k in range(2000)
        ]
    )
    for q in (0.05, 0.95):
        assert float(drops_R.quantile(q)) == pytest.approx(float(slow.double().quantile(q)), abs=1.5e-3)


def test_rules_by_hand():
    reference, candidate = flags((1, 90), (0, 10)), flags((1, 88), (0, 12))
    plain, careful = (RULES.bind(name)(reference, candidate) for name in ("point", "lower_bound"))
    assert plain.judged == plain.point == careful.point == pytest.approx(0.02)
    assert careful.judged > plain.judged
    assert plain.low <= plain.point <= careful.judged <= plain.high
    assert (plain.low, plain.high) == (careful.low, careful.high)


def test_all_wrong_and_all_right():
    assert point(flags((1, 5)), flags((0, 5))).judged == 1.0
    assert point(flags((0, 5)), flags((1, 5))).judged == -1.0
