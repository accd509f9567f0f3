"""What a network answers on a split, and how often it is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compress.core.task import Task


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Context in which `module` is in evaluation mode without gradients; every mode is put back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, was_training in modes:
            part.training = was_training


def device_of(module: nn.Module) -> torch.device:
    """Return where the first parameter lies; a network without parameters lies on the CPU."""
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def logits_of(
    module: nn.Module, task: Task, split: str, *, batch_size: int = 256, limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return what `module` answers on `split`, in file order and without augmentation.

    Args:
        module: Takes x_BCHW, returns logits_BC; its modes are left as they were.
        task: Where the inputs come from. The test split must have been opened.
        split: "train", "validation" or "test".
        batch_size: Inputs at a time; changes the speed alone.
        limit: At most this many inputs, the first ones.

    Returns:
        logits_NC float32 and labels_N int64, both on the CPU.
    """
    num_inputs = len(task.split(split))
    if not num_inputs or limit == 0:
        raise ValueError(f"no inputs: the {split} split of task {task.name!r} has {num_inputs}, the limit is {limit}.")
    device = device_of(module)
    logits, labels = [], []
    with evaluating(module):
        for x_BCHW, y_B in task.batches(split, batch_size=batch_size, limit=limit):
            logits.append(module(x_BCHW.to(device)).float().cpu())
            labels.append(y_B)
    return torch.cat(logits), torch.cat(labels)


def accuracy(module: nn.Module, task: Task, split: str, *, batch_size: int = 256, limit: int | None = None) -> float:
    """Return the part of `split` that `module` answers correctly, in [0, 1]."""
    logits_NC, labels_N = logits_of(module, task, split, batch_size=batch_size, limit=limit)
    return float(task.correct(logits_NC, labels_N).double().mean())
