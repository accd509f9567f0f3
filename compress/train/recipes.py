"""Recipes: an optimiser and how its learning rate moves, for a given number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from compress.core.registry import Family

#: (module, num_steps) -> (optimiser, scheduler that is stepped after every batch).
RECIPES: Family[Callable[..., tuple[Optimizer, LRScheduler]]] = Family("recipe", data=("module", "num_steps"))


def parameter_groups(module: nn.Module, *, weight_decay: float, decay_norm: bool) -> list[dict[str, Any]]:
    """Return the trainable parameters as groups for an optimiser.

    Args:
        module: Its parameters with `requires_grad` are taken.
        weight_decay: Decay of matrices and kernels.
        decay_norm: Whether scales and biases, the parameters with one axis, decay as well.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("nothing to train: no parameter of the network has requires_grad.")
    if decay_norm:
        return [{"params": trained, "weight_decay": weight_decay}]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def cosine_ratio(step: int, *, num_steps: int, warmup_ratio: float) -> float:
    """Return the learning rate at `step` as a part of its peak: linear warm-up, then half a cosine to 0.

    >>> [round(cosine_ratio(step, num_steps=4, warmup_ratio=0.0), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    >>> [round(cosine_ratio(step, num_steps=4, warmup_ratio=0.5), 3) for step in range(5)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    num_warmup = int(warmup_ratio * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / max(1, num_steps - num_warmup)))


def _cosine(optimizer: Optimizer, num_steps: int, warmup_ratio: float) -> LRScheduler:
    if not 0 <= warmup_ratio < 1:
        raise ValueError(f"warmup_ratio={warmup_ratio!r}: the warmed-up part of the steps lies in [0, 1).")
    return LambdaLR(optimizer, lambda step: cosine_ratio(step, num_steps=num_steps, warmup_ratio=warmup_ratio))


def _one_cycle(optimizer: Optimizer, num_steps: int, lr: float, warmup_ratio: float) -> LRScheduler:
    if not 0 < warmup_ratio < 1:
        raise ValueError(f"warmup_ratio={warmup_ratio!r}: the rising part of a cycle lies in (0, 1).")
    is_singular = math.isclose(warmup_ratio * num_steps, 1)
    return OneCycleLR(optimizer, lr, total_steps=num_steps + is_singular, pct_start=warmup_ratio)


def _sgd(groups: Iterable[dict[str, Any]], lr: float, momentum: float, nesterov: bool) -> Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0)


@RECIPES.register("sgd_cosine", paper="Loshchilov 2017")
def sgd_cosine(
    module: nn.Module,
    num_steps: int,
    *,
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
    decay_norm: bool = False,
    warmup_ratio: float = 0.0,
) -> tuple[Optimizer, LRScheduler]:
    """Descend with momentum, the learning rate falling along half a cosine.

    lr_t = lr · ½ (1 + cos(π t / num_steps)) after the warm-up.

    Args:
        module: What is trained.
        num_steps: Number of batches until the learning rate is 0.
        lr: Peak learning rate.
        momentum: Of SGD, in [0, 1).
        nesterov: Whether the gradient is taken ahead of the momentum.
        weight_decay: L2 decay of kernels and matrices.
        decay_norm: Whether scales and biases decay too.
        warmup_ratio: Part of the steps in which the rate rises linearly from 0, in [0, 1).

    Returns:
        Optimiser and scheduler.

    Differs from the paper: no restarts; warm-up and undecayed norms are later habits.
    Cost: one buffer a parameter.
    Reference: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5.

    >>> optimizer, _ = sgd_cosine(nn.Linear(2, 1), 10, lr=0.5)
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """
    groups = parameter_groups(module, weight_decay=weight_decay, decay_norm=decay_norm)
    optimizer = _sgd(groups, lr, momentum, nesterov)
    return optimizer, _cosine(optimizer, num_steps, warmup_ratio)


@RECIPES.register("sgd_one_cycle", paper="Smith 2018")
def sgd_one_cycle(
    module: nn.Module,
    num_steps: int,
    *,
    lr: float = 0.1,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
    decay_norm: bool = False,
    warmup_ratio: float = 0.3,
) -> tuple[Optimizer, LRScheduler]:
    """Descend with momentum, the learning rate rising once and falling to almost 0.

    The rate goes lr/25 → lr → lr/250 000 along cosines, the momentum 0.95 → 0.85 → 0.95.

    Args:
        module: What is trained.
        num_steps: Length of the cycle in batches.
        lr: Peak learning rate.
        nesterov: Whether the gradient is taken ahead of the momentum.
        weight_decay: L2 decay of kernels and matrices.
        decay_norm: Whether scales and biases decay too.
        warmup_ratio: Part of the steps in which the rate rises, in (0, 1).

    Returns:
        Optimiser and scheduler.

    Differs from the paper: cosine instead of linear slopes, as in torch.
    Cost: one buffer a parameter.
    Reference: Smith and Topin, Super-Convergence, 2018, section 3.

    >>> optimizer, _ = sgd_one_cycle(nn.Linear(2, 1), 10, lr=0.5)
    >>> round(optimizer.param_groups[0]["lr"], 6)
    0.02
    """
    groups = parameter_groups(module, weight_decay=weight_decay, decay_norm=decay_norm)
    optimizer = _sgd(groups, lr, 0.9, nesterov)
    return optimizer, _one_cycle(optimizer, num_steps, lr, warmup_ratio)


@RECIPES.register("adamw_cosine", paper="Loshchilov 2019")
def adamw_cosine(
    module: nn.Module,
    num_steps: int,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    decay_norm: bool = False,
    warmup_ratio: float = 0.05,
) -> tuple[Optimizer, LRScheduler]:
    """Descend with AdamW, the learning rate falling along half a cosine.

    lr_t = lr · ½ (1 + cos(π t / num_steps)) after the warm-up.

    Args:
        module: What is trained.
        num_steps: Number of batches until the learning rate is 0.
        lr: Peak learning rate.
        weight_decay: Decoupled decay of kernels and matrices.
        decay_norm: Whether scales and biases decay too.
        warmup_ratio: Part of the steps in which the rate rises linearly from 0, in [0, 1).

    Returns:
        Optimiser and scheduler.

    Differs from the paper: no restarts; the decay is multiplied by the learning rate, as in torch.
    Cost: two buffers a parameter.
    Reference: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2.

    >>> optimizer, _ = adamw_cosine(nn.Linear(2, 1), 10, lr=0.5, warmup_ratio=0.2)
    >>> optimizer.param_groups[0]["lr"]
    0.25
    """
    groups = parameter_groups(module, weight_decay=weight_decay, decay_norm=decay_norm)
    optimizer = torch.optim.AdamW(groups, lr=lr)
    return optimizer, _cosine(optimizer, num_steps, warmup_ratio)


@RECIPES.register("adamw_one_cycle", paper="Smith 2018")
def adamw_one_cycle(
    module: nn.Module,
    num_steps: int,
    *,
    lr: float = 3e-3,
    weight_decay: float = 0.05,
    decay_norm: bool = False,
    warmup_ratio: float = 0.3,
) -> tuple[Optimizer, LRScheduler]:
    """Descend with AdamW, the learning rate rising once and falling to almost 0.

    The rate goes lr/25 → lr → lr/250 000 along cosines, β₁ 0.95 → 0.85 → 0.95.

    Args:
        module: What is trained.
        num_steps: Length of the cycle in batches.
        lr: Peak learning rate.
        weight_decay: Decoupled decay of kernels and matrices.
        decay_norm: Whether scales and biases decay too.
        warmup_ratio: Part of the steps in which the rate rises, in (0, 1).

    Returns:
        Optimiser and scheduler.

    Differs from the paper: AdamW instead of SGD; cosine instead of linear slopes.
    Cost: two buffers a parameter.
    Reference: Smith and Topin, Super-Convergence, 2018, section 3.

    >>> optimizer, _ = adamw_one_cycle(nn.Linear(2, 1), 10, lr=0.5)
    >>> round(optimizer.param_groups[0]["lr"], 6)
    0.02
    """
    groups = parameter_groups(module, weight_decay=weight_decay, decay_norm=decay_norm)
    optimizer = torch.optim.AdamW(groups, lr=lr)
    return optimizer, _one_cycle(optimizer, num_steps, lr, warmup_ratio)
