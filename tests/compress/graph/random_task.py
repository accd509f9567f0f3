"""A task of random pictures of any shape, and a small network with shortcuts that pad, for tests without training."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.core.random import generator, seeded
from compress.core.task import InputSpec, Split, Task
from compress.models.resnet_cifar import resnet_cifar
from tests.toys import toy_task


def random_task(shape: tuple[int, int, int], num_classes: int, *, num_inputs: int = 48) -> Task:
    """Return a task with one training split of noise; classes come in turn."""
    names = tuple(f"class {k}" for k in range(num_classes))
    spec = InputSpec(shape=shape, mean=(0.5,) * shape[0], std=(0.25,) * shape[0], class_names=names)
    draw = generator(0, "random task", *shape)
    images = torch.randint(0, 256, (num_inputs, *shape), generator=draw, dtype=torch.uint8)
    split = Split(labels_B=torch.arange(num_inputs) % num_classes, images=lambda index: images[index])
    return replace(toy_task(), input=spec, digest=str(shape), load=lambda: {"train": split}, _cache={})


def small_resnet() -> tuple[nn.Module, Tensor]:
    """Return a network of 3 classes whose shortcuts read channels without weights, and an input."""
    with seeded(0, "small resnet"):
        module = resnet_cifar((3, 8, 8), 3, depth=8, width=4)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0.1, 0.3)
    return module.eval(), torch.randn(2, 3, 8, 8, generator=generator(0, "small resnet"))
