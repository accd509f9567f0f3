"""An exponential moving average of a network's weights and batch-norm statistics."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """A second network whose weights trail behind those of a network in training.

    average ← d · average + (1 − d) · weights, with d = min(decay, (1 + t) / (10 + t)) at step t, so
    that the first steps do not drag the initial weights along. Running means and variances of
    batch norm are averaged alike; counters are copied.

    Args:
        module: The network in training; it is copied once.
        decay: d in the long run, in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self._followed = [(mine, theirs) for mine, theirs in self._pairs(module) if mine.is_floating_point()]
        self._copied = [(mine, theirs) for mine, theirs in self._pairs(module) if not mine.is_floating_point()]

    def _pairs(self, module: nn.Module) -> list[tuple[Tensor, Tensor]]:
        theirs = module.state_dict(keep_vars=True)
        return [(mine, theirs[name]) for name, mine in self.module.state_dict(keep_vars=True).items()]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take the weights after `step` (counted from 0) into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = zip(*self._followed, strict=True)
        torch._foreach_lerp_(list(mine), [value.detach() for value in theirs], 1 - decay)
        for counter, value in self._copied:
            counter.copy_(value)
