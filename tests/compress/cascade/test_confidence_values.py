import math

import pytest
import torch

from compress.cascade.confidences import entropy, margin, max_probability

#: softmax = (3/4, 1/4).
LOGITS = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)


def test_entropy_by_hand():
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert entropy(LOGITS).item() == pytest.approx(expected)
    assert expected == pytest.approx(0.8112781, abs=1e-6)


def test_max_probability_by_hand():
    assert max_probability(LOGITS).item() == pytest.approx(0.25 * 2)


def test_margin_by_hand():
    assert margin(LOGITS).item() == pytest.approx(0.5)
