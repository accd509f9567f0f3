"""A task, a network and an entry small enough to train in a second."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.core.random import generator
from compress.core.stage import Entry
from compress.core.task import TASKS, InputSpec, Split, Task

SIZES = {"train": 96, "validation": 48, "test": 48}
TOY_INPUT = InputSpec(shape=(1, 8, 8), mean=(0.5,), std=(0.25,), class_names=("left", "right", "none"))


def _pictures(split: str, seed: int) -> Split:
    draw = generator(seed, "toy", split)
    labels_B = torch.randint(0, 3, (SIZES[split],), generator=draw)
    images = torch.randint(0, 120, (SIZES[split], 1, 8, 8), generator=draw, dtype=torch.uint8)
    images[labels_B == 0, :, 2:6, :3] += 110
    images[labels_B == 1, :, 2:6, 5:] += 110
    return Split(labels_B=labels_B, images=lambda index: images[index])


@TASKS.register("toy")
def toy(*, seed: int = 0) -> Task:
    """Say on which side a bright bar stands, if any."""

    def load() -> Mapping[str, Split]:
        return {split: _pictures(split, seed) for split in SIZES}

    return Task(piece=TASKS.bind("toy", seed=seed), input=TOY_INPUT, digest=f"toy-{seed}", load=load)


class ToyBlock(nn.Module):
    """Two convolutions with an identity shortcut."""

    is_droppable = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        y_BCHW = torch.relu(self.bn1(self.conv1(x_BCHW)))
        return torch.relu(x_BCHW + self.bn2(self.conv2(y_BCHW)))


class ToyNet(nn.Module):
    """Stem of 8 channels, one residual block, 16 channels at half size, linear."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.block = ToyBlock(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        y_BCHW = self.block(torch.relu(self.bn1(self.conv1(x_BCHW))))
        y_BCHW = torch.relu(self.bn2(self.conv2(y_BCHW)))
        logits_BC: Tensor = self.linear(y_BCHW.mean((2, 3)))
        return logits_BC


@BUILDERS.register("toy")
def toy_net(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build the toy network."""
    return ToyNet(shape[0], num_classes)


def toy_task(seed: int = 0) -> Task:
    """Return the toy task with its test split sealed."""
    return toy(seed=seed)


def toy_model(seed: int = 0) -> Model:
    """Return the toy network, untrained."""
    return Model.build(BUILDERS.bind("toy"), TOY_INPUT, seed=seed)


def toy_entry(model: Model | None = None) -> Entry:
    """Return an entry that is in no store and holds `model`."""
    return Entry.of(model or toy_model(), "toy-0000000000000000")
