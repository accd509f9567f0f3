import math

import pytest
import torch
from torch.nn import functional

from compress.cascade.temperature import BOUNDS, temperature_of
from compress.core.random import generator


def test_by_hand():
    """Three of four right at logits (a, 0): the best p is 3/4, so a / T = ln 3."""
    logits = torch.tensor([[5.0, 0.0]] * 4)
    assert temperature_of(logits, torch.tensor([0, 0, 1, 0])) == pytest.approx(5 / math.log(3), rel=1e-6)


def test_scaling_the_logits_scales_the_temperature():
    logits = torch.randn(200, 4, generator=generator(0, "t"))
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator(0, "l")).flatten()
    base = temperature_of(logits, labels)
    assert 0.7 < base < 1.5
    assert temperature_of(3 * logits, labels) == pytest.approx(3 * base, rel=1e-5)


def test_it_is_the_least_of_all():
    logits = 4 * torch.randn(100, 3, generator=generator(1, "t"))
    labels = torch.randint(0, 3, (100,), generator=generator(1, "l"))
    best = functional.cross_entropy(logits.double() / temperature_of(logits, labels), labels)
    for other in torch.logspace(-1, 1.2, 50):
        assert best <= functional.cross_entropy(logits.double() / other, labels) + 1e-9


def test_no_errors_and_no_information_end_at_the_bounds():
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert temperature_of(sure, torch.tensor([0, 1])) == pytest.approx(BOUNDS[0], rel=1e-6)
    assert temperature_of(sure, torch.tensor([1, 0])) == pytest.approx(BOUNDS[1], rel=1e-6)
