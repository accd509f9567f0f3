"""Batch-norm statistics measured anew, after a cut or for weights taken from another network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.core.random import generator
from compress.core.task import Task
from compress.train.scoring import device_of


def recalibrate_batch_norm(
    module: nn.Module, task: Task, *, num_batches: int = 20, batch_size: int = 64, seed: int = 0
) -> None:
    """Replace every running mean and variance in `module` by the average over training batches.

    The average is over the batches with equal weight, so the old statistics leave no trace. Inputs
    are not augmented, because the statistics serve unaugmented inputs; dropout stays off.

    Args:
        module: Changed in place, in its batch-norm buffers alone; modes and momenta are put back.
        task: Gives the training inputs.
        num_batches: How many batches to average over; fewer when the split is smaller.
        batch_size: Inputs a batch. Small batches underestimate the variance.
        seed: Which inputs are chosen.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return
    modes = [(part, part.training) for part in module.modules()]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        device, chosen = device_of(module), generator(seed, "recalibrate")
        whole = max(1, len(task.split("train")) // batch_size)
        batches = replace(task, augment=None).batches(
            "train", batch_size=batch_size, shuffle=chosen, limit=min(num_batches, whole) * batch_size
        )
        with torch.no_grad():
            for x_BCHW, _ in batches:
                module(x_BCHW.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, was_training in modes:
            part.training = was_training
