import pytest
import torch

from compress.cascade.curve import bounds_at, curve_of
from compress.cascade.targets import accuracy, cost
from compress.core.budget import Infeasible

#: Sorted by score: .9 (small wrong, large right), .7 twice (one each way), .2 and .1 (both right).
SCORES = torch.tensor([0.1, 0.7, 0.9, 0.2, 0.7], dtype=torch.float64)
SMALL = torch.tensor([1.0, 1, 0, 1, 0])
LARGE = torch.tensor([1.0, 0, 1, 1, 1])


@pytest.fixture
def curve():
    return curve_of(SCORES, SMALL, LARGE, small_macs=10, large_macs=100)


def test_curve_by_hand(curve):
    assert curve.threshold_T.tolist() == pytest.approx([1.0, 0.8, 0.45, 0.15, -1.0])
    assert curve.deferred_T.tolist() == pytest.approx([0, 0.2, 0.6, 0.8, 1])
    assert curve.accuracy_T.tolist() == pytest.approx([0.6, 0.8, 0.8, 0.8, 0.8])
    assert curve.macs_T.tolist() == pytest.approx([10, 30, 70, 90, 110])
    assert (curve.small_accuracy, curve.large_accuracy) == pytest.approx((0.6, 0.8))


def test_thresholds_do_what_the_curve_says(curve):
    for k in range(len(curve)):
        is_deferred = curve.threshold_T[k] < SCORES
        assert float(is_deferred.double().mean()) == pytest.approx(float(curve.deferred_T[k]))
        right = torch.where(is_deferred, LARGE, SMALL).mean()
        assert float(right) == pytest.approx(float(curve.accuracy_T[k]))


def test_json_keeps_both_ends(curve):
    assert [point["deferred"] for point in curve.as_json(3)] == pytest.approx([0, 0.6, 1])
    assert len(curve.as_json()) == 5
    assert curve.as_json()[1] == pytest.approx(
        {"threshold": 0.8, "deferred": 0.2, "accuracy": 0.8, "expected_macs_ratio": 0.3}
    )


def test_accuracy_target_by_hand(curve):
    assert accuracy(curve, margin=0.0) == 1
    assert accuracy(curve, margin=0.1) == 2
    assert accuracy(curve, margin=0.9) == 4
    assert accuracy(curve, tolerance=0.2, margin=0.0) == 0


def test_cost_target_by_hand(curve):
    assert cost(curve, macs_ratio=0.75, margin=0.0) == 2
    assert cost(curve, macs_ratio=0.75, margin=0.1) == 1
    assert cost(curve, macs_ratio=0.2, margin=0.0) == 0
    with pytest.raises(Infeasible) as caught:
        cost(curve, macs_ratio=0.05, margin=0.0)
    assert caught.value.smallest == pytest.approx(0.1)


def test_bounds_by_hand():
    found = bounds_at(0.4, SMALL, LARGE)
    assert found["oracle_accuracy"] == pytest.approx(1.0)
    assert found["oracle_deferred"] == pytest.approx(0.4)
    assert found["random_accuracy"] == pytest.approx(0.6 * 0.6 + 0.4 * 0.8)
    assert bounds_at(1.0, SMALL, LARGE)["oracle_accuracy"] == pytest.approx(0.8)


@pytest.mark.parametrize("seed", range(5))
def test_every_point_lies_between_nothing_and_the_oracle(seed):
    draw = torch.Generator().manual_seed(seed)
    small, large = ((torch.rand(50, generator=draw) > level).float() for level in (0.4, 0.2))
    curve = curve_of(torch.rand(50, generator=draw), small, large, small_macs=1, large_macs=3)
    for k in range(len(curve)):
        assert (
            float(curve.accuracy_T[k]) <= bounds_at(float(curve.deferred_T[k]), small, large)["oracle_accuracy"] + 1e-9
        )
    assert float(curve.accuracy_T[-1]) == pytest.approx(float(large.mean()))
