"""Training of gates in a network that itself stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice

import torch
from torch import Tensor, nn

from compress.core.progress import track
from compress.core.random import generator
from compress.core.task import Task
from compress.train.hardware import repeatable
from compress.train.scoring import device_of

#: The learning rate falls to 0 over this last part of all steps.
SETTLING = 0.3
#: (number of the step, inputs, labels) -> the loss of that step.
StepLoss = Callable[[int, Tensor, Tensor], Tensor]


@contextmanager
def standing_still(module: nn.Module) -> Iterator[None]:
    """Put the network in evaluation mode and its parameters out of reach of gradients, for as long as this lasts."""
    modes = {layer: layer.training for layer in module.modules()}
    flags = {parameter: parameter.requires_grad for parameter in module.parameters()}
    try:
        module.eval().requires_grad_(False)
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


class GateTraining:
    """How long gates are trained, and on what: random training inputs without augmentation, others in every round.

    Args:
        task: Gives inputs, labels and the loss.
        num_batches: Batches a round.
        batch_size: Inputs a batch.
        seed: Which inputs.
        rounds: How many rounds; a data set with fewer batches is gone through more often.
    """

    def __init__(self, task: Task, *, num_batches: int, batch_size: int, seed: int, rounds: int) -> None:
        self.task, self.seed, self.num_steps = replace(task, augment=None), seed, rounds * num_batches
        self._batch_size, self._limit = batch_size, num_batches * batch_size

    def batches(self, *place: str | int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, labels) of the round that `place` names."""
        order = generator(self.seed, "gates", *place)
        return self.task.batches("train", batch_size=self._batch_size, shuffle=order, limit=self._limit)

    def minimise(
        self, module: nn.Module, parameters: Sequence[Tensor], loss_of: StepLoss, *, lr: float, what: str
    ) -> None:
        """Train `parameters` in place with Adam while `module` stands still; equal seeds give equal results.

        Args:
            module: The network; its weights, modes, flags and `.grad` come back as they were.
            parameters: What is trained.
            loss_of: The loss of a step; it runs the network.
            lr: Learning rate.
            what: Name of the work for the display of progress.
        """
        device, note = device_of(module), [""]
        optimizer = torch.optim.Adam(parameters, lr=lr)
        settle = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (self.num_steps - step) / (SETTLING * self.num_steps))
        )
        endless = (batch for k in count() for batch in self.batches(k))
        steps = track(islice(endless, self.num_steps), total=self.num_steps, what=what, note=note)
        with standing_still(module), torch.enable_grad():
            for step, (x_BCHW, y_B) in enumerate(steps):
                with repeatable(self.seed, step, device):
                    loss = loss_of(step, x_BCHW.to(device), y_B.to(device))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                settle.step()
                note[0] = f"loss {float(loss.detach()):.3f}"
