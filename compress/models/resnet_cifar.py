"""Residual networks for small pictures, with the parameter-free shortcut of the CIFAR experiments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.core.lineage import BUILDERS

#: Entry of `PadShortcut.source` for an output channel that is always zero.
ZERO = -1


class PadShortcut(nn.Module):
    """Shortcut without parameters: every `stride`-th pixel, channels placed by a table, zeros elsewhere.

    y[:, j] = x[:, source[j], ::stride, ::stride], and 0 where source[j] is -1. Its attributes are
    all of its structure: cutting channels makes a new module with a shorter table. It adds nothing
    to the state dictionary.

    Attributes:
        in_channels: Channels taken.
        out_channels: Channels given, `len(source)`.
        stride: Step between the pixels taken, in both directions.
        source: Input channel of each output channel, or -1.

    >>> PadShortcut.centred(2, 4, 2).source
    (-1, 0, 1, -1)
    """

    index: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int, source: Sequence[int]) -> None:
        super().__init__()
        assert len(source) == out_channels, (len(source), out_channels)
        assert all(ZERO <= channel < in_channels for channel in source), (source, in_channels)
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.source = tuple(int(channel) for channel in source)
        self._run = _run_of(self.source)
        if self._run is None:
            index = torch.tensor([in_channels if channel == ZERO else channel for channel in self.source])
            self.register_buffer("index", index, persistent=False)

    @classmethod
    def centred(cls, in_channels: int, out_channels: int, stride: int) -> Self:
        """Return the published shortcut: half of the new zero channels in front, half behind."""
        front = (out_channels - in_channels) // 2
        behind = out_channels - in_channels - front
        return cls(in_channels, out_channels, stride, (*[ZERO] * front, *range(in_channels), *[ZERO] * behind))

    def keep_out(self, kept: Sequence[int]) -> PadShortcut:
        """Return the shortcut that gives only the output channels `kept`, in that order."""
        return PadShortcut(self.in_channels, len(kept), self.stride, [self.source[j] for j in kept])

    def keep_in(self, kept: Sequence[int]) -> PadShortcut:
        """Return the shortcut that takes only the input channels `kept`; those cut become zeros."""
        position = {channel: new for new, channel in enumerate(kept)}
        source = [position.get(channel, ZERO) for channel in self.source]
        return PadShortcut(len(kept), self.out_channels, self.stride, source)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        step = self.stride
        if self._run is None:
            padded = functional.pad(x_BCHW[:, :, ::step, ::step], (0, 0, 0, 0, 0, 1))
            return padded.index_select(1, self.index)
        front, first, length = self._run
        part = x_BCHW[:, first : first + length, ::step, ::step]
        behind = self.out_channels - front - length
        return functional.pad(part, (0, 0, 0, 0, front, behind)) if front or behind else part

    def extra_repr(self) -> str:
        """Structure for `print(module)`."""
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


def _run_of(source: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return (zeros in front, first channel, length) when the channels are one ascending run, else None."""
    taken = [j for j, channel in enumerate(source) if channel != ZERO]
    if not taken:
        return None
    front, first = taken[0], source[taken[0]]
    is_run = all(j == front + k and source[j] == first + k for k, j in enumerate(taken))
    return (front, first, len(taken)) if is_run else None


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them.

    Where the shape stays the same the shortcut is the identity, and the whole block can be left out.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        is_identity = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if is_identity else PadShortcut.centred(in_channels, out_channels, stride)

    @property
    def is_droppable(self) -> bool:
        """Whether an identity can stand in for this block."""
        return isinstance(self.shortcut, nn.Identity)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y_BDHW = self.relu(self.bn1(self.conv1(x_BCHW)))
        y_BDHW = self.bn2(self.conv2(y_BDHW))
        output_BDHW: Tensor = self.relu(y_BDHW + self.shortcut(x_BCHW))
        return output_BDHW


class ResNetCifar(nn.Module):
    """Stem, three stages of basic blocks, global average pooling, classifier."""

    def __init__(self, in_channels: int, num_classes: int, *, num_blocks: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(width, width, 1, num_blocks)
        self.layer2 = _stage(width, 2 * width, 2, num_blocks)
        self.layer3 = _stage(2 * width, 4 * width, 2, num_blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits (B, num_classes)."""
        x_BCHW = self.relu(self.bn1(self.conv1(x_BCHW)))
        x_BCHW = self.layer3(self.layer2(self.layer1(x_BCHW)))
        logits_BC: Tensor = self.linear(self.pool(x_BCHW).flatten(1))
        return logits_BC


def _stage(in_channels: int, out_channels: int, stride: int, num_blocks: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))


@BUILDERS.register("resnet_cifar", paper="He 2016")
def resnet_cifar(shape: tuple[int, int, int], num_classes: int, *, depth: int = 20, width: int = 16) -> nn.Module:
    """Residual network for small pictures with parameter-free shortcuts.

    y = relu(x' + bn(conv(relu(bn(conv(x)))))), where x' is x, or `PadShortcut` of x where the shape changes.

    Args:
        shape: (channels, height, width) of one input; any number of channels, 8 pixels or more.
        num_classes: Number of outputs.
        depth: Layers with weights, 6 n + 2 for n blocks a stage: 20, 32, 44, 56, 110; 8 and 14 for toys.
        width: Channels of the first stage; the others have 2 and 4 times as many.

    Returns:
        A module from (B, channels, height, width) to logits (B, num_classes).

    Differs from the paper: no difference in structure; weights start by He's rule with fan-in.

    Cost: 125.49 M multiply-adds and 853,018 parameters for depth 56 on 3x32x32.

    Reference: He et al., "Deep Residual Learning for Image Recognition", section 4.2, shortcut option A.

    >>> sum(p.numel() for p in resnet_cifar((3, 32, 32), 10, depth=20).parameters())
    269722
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"resnet_cifar: depth={depth} is not 6 n + 2; choose 8, 14, 20, 32, 44, 56 or 110.")
    if width < 1:
        raise ValueError(f"resnet_cifar: width={width}; a stage needs at least one channel, 16 is usual.")
    return ResNetCifar(shape[0], num_classes, num_blocks=(depth - 2) // 6, width=width)
