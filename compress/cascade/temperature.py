"""Temperature scaling: makes a network's probabilities honest without changing its answers."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

#: Where temperatures are looked for. A network without a validation error ends at the lower end.
BOUNDS = (0.05, 20.0)
_GOLDEN = (math.sqrt(5) - 1) / 2


def temperature_of(logits_NC: Tensor, labels_N: Tensor) -> float:
    """Return the T in `BOUNDS` that minimises the cross-entropy of logits / T.

    Golden-section search over ln T: the cross-entropy is convex in 1 / T, so it has one valley in ln T.
    No random numbers; equal inputs give equal temperatures.

    Args:
        logits_NC: Validation outputs (N, C).
        labels_N: Class indices (N,).

    Returns:
        The temperature: above 1 when the network is too sure of itself.

    Reference: Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2.

    Example: three right and one wrong answer at equal logits (a, 0) mean p = 3/4, that is a / T = ln 3.

    >>> logits_NC = torch.tensor([[2.0, 0.0]] * 4)
    >>> round(2.0 / temperature_of(logits_NC, torch.tensor([0, 0, 0, 1])) / math.log(3), 6)
    1.0
    """
    logits_NC = logits_NC.double()

    def loss(log_t: float) -> float:
        return float(functional.cross_entropy(logits_NC / math.exp(log_t), labels_N))

    low, high = (math.log(bound) for bound in BOUNDS)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    for _ in range(64):
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - _GOLDEN * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + _GOLDEN * (high - low)
            loss_right = loss(right)
    return float(torch.tensor((low + high) / 2, dtype=torch.float64).exp())
