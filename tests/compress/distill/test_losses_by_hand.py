import math

import pytest
import torch

from compress.distill.losses import Taps
from compress.distill.losses.hint import hint
from compress.distill.losses.logits import logits

TARGET = torch.tensor([0])
EVEN = Taps(torch.tensor([[0.0, 0.0]]))


def test_hard_part_alone_is_cross_entropy():
    student = Taps(torch.tensor([[math.log(3.0), 0.0]]))
    assert float(logits(student, EVEN, TARGET, hard_weight=1.0)) == pytest.approx(math.log(4 / 3))


def test_soft_part_by_hand():
    teacher = Taps(torch.tensor([[4 * math.log(3.0), 0.0]]))
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(logits(EVEN, teacher, TARGET, temperature=4.0, hard_weight=0.0)) == pytest.approx(16 * divergence)
    mixed = logits(EVEN, teacher, TARGET, temperature=4.0, hard_weight=0.25)
    assert float(mixed) == pytest.approx(0.25 * math.log(2) + 0.75 * 16 * divergence)


def test_hint_adds_half_the_mean_square_of_each_map():
    student = Taps(EVEN.logits_BC, (torch.ones(1, 2, 2, 2), torch.zeros(1, 3, 1, 2)))
    teacher = Taps(EVEN.logits_BC, (torch.zeros(1, 2, 2, 2), torch.full((1, 3, 1, 2), 2.0)))
    wanted = 10.0 * (0.5 + 2.0) / 2
    assert float(hint(student, teacher, TARGET, feature_weight=10.0, hard_weight=0.0)) == pytest.approx(wanted)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"hard_weight": 1.5}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        logits(EVEN, EVEN, TARGET, **options)


def test_hint_without_features_is_refused():
    with pytest.raises(ValueError, match="feature maps"):
        hint(EVEN, EVEN, TARGET)
