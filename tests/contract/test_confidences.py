"""What every confidence and every target of a cascade promises."""

import pytest
import torch

from compress.cascade.confidences import CONFIDENCES
from compress.cascade.curve import curve_of
from compress.cascade.targets import TARGETS
from compress.core.random import generator

NAMES = sorted(CONFIDENCES)


def some_logits(num_classes, scale=3.0):
    return scale * torch.randn(64, num_classes, generator=generator(0, "logits", num_classes))


@pytest.mark.parametrize("name", NAMES)
class TestEveryConfidence:
    @pytest.mark.parametrize("num_classes", [2, 3, 10, 1000])
    @pytest.mark.parametrize("scale", [0.0, 1e-3, 3.0, 1e4])
    def test_shape_and_range(self, name, num_classes, scale):
        scores_B = CONFIDENCES.bind(name)(some_logits(num_classes, scale))
        assert scores_B.shape == (64,)
        assert scores_B.dtype == torch.float64
        assert ((scores_B >= 0) & (scores_B <= 1)).all()

    def test_high_means_unsure(self, name):
        confidence = CONFIDENCES.bind(name)
        assert confidence(torch.zeros(1, 5)).item() == pytest.approx(1)
        assert confidence(torch.tensor([[200.0, 0, 0, 0, 0]])).item() == pytest.approx(0)
        sharper = [confidence(scale * torch.tensor([[2.0, 1.0, 0.0]])).item() for scale in (0.5, 1.0, 2.0, 4.0)]
        assert sharper == sorted(sharper, reverse=True)

    def test_order_of_classes_and_a_shift_do_not_matter(self, name):
        logits_BC, confidence = some_logits(6), CONFIDENCES.bind(name)
        permuted = logits_BC[:, torch.tensor([3, 1, 5, 0, 2, 4])]
        assert torch.allclose(confidence(logits_BC), confidence(permuted))
        assert torch.allclose(confidence(logits_BC), confidence(logits_BC + 5), atol=1e-5)

    def test_inputs_do_not_see_each_other(self, name):
        logits_BC, confidence = some_logits(4), CONFIDENCES.bind(name)
        assert torch.allclose(confidence(logits_BC)[:3], confidence(logits_BC[:3]))

    def test_writes_nothing(self, name):
        logits_BC = some_logits(4)
        before = logits_BC.clone()
        CONFIDENCES.bind(name)(logits_BC)
        assert torch.equal(before, logits_BC)

    def test_card_is_filled_in(self, name):
        card = CONFIDENCES[name]
        assert card.paper
        for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
            assert word in card.function.__doc__


def some_curve(seed):
    draw = generator(seed, "curve")
    scores = torch.rand(80, generator=draw, dtype=torch.float64)
    small = (torch.rand(80, generator=draw) > 0.7 * scores).float()
    large = (torch.rand(80, generator=draw) > 0.05).float()
    return curve_of(scores, small, large, small_macs=1.0, large_macs=5.0)


@pytest.mark.parametrize("name", sorted(TARGETS))
@pytest.mark.parametrize("seed", range(6))
class TestEveryTarget:
    def test_is_a_point_of_the_curve_and_the_same_each_time(self, name, seed):
        curve, target = some_curve(seed), TARGETS.bind(name)
        index = target(curve)
        assert isinstance(index, int)
        assert 0 <= index < len(curve)
        assert index == target(curve)

    def test_margin_never_defers_less_for_accuracy_nor_spends_more(self, name, seed):
        curve = some_curve(seed)
        plain, careful = (TARGETS.bind(name, margin=margin)(curve) for margin in (0.0, 0.1))
        if name == "accuracy":
            assert careful > plain
            assert curve.deferred_T[careful] >= curve.deferred_T[plain] + 0.1 - 1e-6
        else:
            assert careful <= plain
            assert curve.macs_ratio_T[careful] <= 0.5 + 1e-6


def test_targets_have_filled_cards():
    for name in TARGETS:
        for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
            assert word in TARGETS[name].function.__doc__
