"""The hard concrete distribution: numbers in [0, 1] that are exactly 0 and exactly 1 with positive probability."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Temperature β and the interval (γ, ζ) to which the concrete variable is stretched before it is clipped.
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
#: ln α plus this is the log-odds of a gate that is not 0: -β ln(-γ / ζ).
OPEN_SHIFT = -BETA * math.log(-GAMMA / ZETA)


def sampled(log_alpha_C: Tensor, uniform_BC: Tensor) -> Tensor:
    """Return gates z = clip(s (ζ - γ) + γ, 0, 1) with s = σ((ln u - ln(1 - u) + ln α) / β).

    Args:
        log_alpha_C: Location ln α of each gate.
        uniform_BC: Numbers u in [0, 1), one for each input and gate.

    Returns:
        gates_BC in [0, 1]; gradients reach ln α where a gate is strictly between.

    Differs from the paper: no difference.

    Reference: Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018, equations 10, 11.

    At u = 1/2 and α = 1: s = 1/2, z = 1/2 · 1.2 - 0.1:

    >>> sampled(torch.zeros(1), torch.tensor([[0.5]]))
    tensor([[0.5000]])
    """
    tiny = torch.finfo(uniform_BC.dtype).eps
    s_BC = torch.sigmoid((torch.logit(uniform_BC, tiny) + log_alpha_C) / BETA)
    return (s_BC * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_log_odds(log_alpha_C: Tensor) -> Tensor:
    """Return ln(P(z ≠ 0) / P(z = 0)) = ln α - β ln(-γ / ζ) (the paper's equation 12 before the sigmoid).

    >>> round(float(torch.sigmoid(open_log_odds(torch.zeros(1)))), 4)
    0.8318
    """
    return log_alpha_C + OPEN_SHIFT
