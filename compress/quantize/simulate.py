"""Weights rounded to few bits and back, to see how much accuracy a bit-width would cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.core.task import Task
from compress.train.folding import folded
from compress.train.scoring import accuracy


def rounded(values: Tensor, bits: int) -> Tensor:
    """Return `values` rounded to 2^bits even levels between their smallest and largest, 0 being a level.

    One range for the whole tensor: step = (max - min) / (2^bits - 1), zero point rounded to a level.

    >>> rounded(torch.tensor([-1.0, 0.0, 0.4, 2.0]), 2).tolist()
    [-1.0, 0.0, 0.0, 2.0]
    """
    assert bits >= 1, bits
    lowest, highest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    num_steps = 2**bits - 1
    step = (highest - lowest) / num_steps
    if step == 0:
        return values.clone()
    zero = round(-lowest / step)
    levels = torch.clamp(torch.round(values / step) + zero, 0, num_steps)
    return (levels - zero) * step


def with_rounded_weights(module: nn.Module, bits: int) -> nn.Module:
    """Return a copy with batch norm folded in and every convolution and linear weight rounded to `bits`.

    Activations and biases stay as they are.
    """
    copy = folded(module)
    with torch.no_grad():
        for part in copy.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.copy_(rounded(part.weight, bits))
    return copy


def robustness(
    module: nn.Module, task: Task, *, bits: Sequence[int] = (8, 6, 5, 4), limit: int | None = 1000
) -> dict[int, float]:
    """Return the validation accuracy with weights of each bit-width, over at most `limit` inputs."""
    return {width: accuracy(with_rounded_weights(module, width), task, "validation", limit=limit) for width in bits}
