"""MobileNetV2 with its first strides taken out, for small pictures."""

from __future__ import annotations

from torch import Tensor, nn

from compress.core.lineage import BUILDERS

#: (expansion, channels, blocks, stride of the first block) of the seven stages.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


class ConvNormAct(nn.Sequential):
    """Convolution, batch normalisation, ReLU6."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.ReLU6())


class InvertedBlock(nn.Module):
    """Widen by a 1x1 convolution, filter each channel by 3x3, narrow by a 1x1 convolution without activation.

    With stride 1 and as many channels out as in, the input is added to the result.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.expand = ConvNormAct(in_channels, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNormAct(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    @property
    def is_droppable(self) -> bool:
        """Whether an identity can stand in for this block."""
        return self.has_shortcut

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y_BDHW: Tensor = self.norm(self.project(self.depthwise(self.expand(x_BCHW))))
        return x_BCHW + y_BDHW if self.has_shortcut else y_BDHW


class MobileNetV2Small(nn.Module):
    """Stem, seven stages of inverted blocks, a wide 1x1 convolution, global average pooling, classifier."""

    def __init__(self, in_channels: int, num_classes: int, *, width: float) -> None:
        super().__init__()
        channels = _divisible(STEM_CHANNELS * width)
        self.stem = ConvNormAct(in_channels, channels, 3)
        blocks = []
        for expansion, full_width, num_blocks, first_stride in STAGES:
            out_channels = _divisible(full_width * width)
            for position in range(num_blocks):
                stride = first_stride if position == 0 else 1
                blocks.append(InvertedBlock(channels, out_channels, stride, expansion))
                channels = out_channels
        head_channels = _divisible(HEAD_CHANNELS * max(1.0, width))
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNormAct(channels, head_channels, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head_channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits (B, num_classes)."""
        x_BCHW = self.head(self.blocks(self.stem(x_BCHW)))
        logits_BC: Tensor = self.classifier(self.pool(x_BCHW).flatten(1))
        return logits_BC


def _divisible(channels: float, by: int = 8) -> int:
    """Return the nearest multiple of `by` that is at least `by` and at least 0.9 of `channels`."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


@BUILDERS.register("mobilenet_v2_small", paper="Sandler 2018")
def mobilenet_v2_small(shape: tuple[int, int, int], num_classes: int, *, width: float = 1.0) -> nn.Module:
    """MobileNetV2 whose stem and first widening stage keep the resolution, for pictures of 16 to 32 pixels.

    y = x + narrow(depthwise(widen(x))), with the sum only where the shape stays.

    Args:
        shape: (channels, height, width) of one input; any number of channels.
        num_classes: Number of outputs.
        width: Factor on every number of channels; results are multiples of 8.

    Returns:
        A module from (B, channels, height, width) to logits (B, num_classes).

    Differs from the paper: stem and second stage have stride 1 instead of 2, so the last map is 1/8 of the input's
    height and width; no dropout before the classifier.

    Cost: about 88 M multiply-adds and 2.2 M parameters on 3x32x32.

    Reference: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2.

    >>> sum(p.numel() for p in mobilenet_v2_small((3, 32, 32), 10).parameters())
    2236682
    """
    if width <= 0:
        raise ValueError(f"mobilenet_v2_small: width={width}; the factor on the channels must be above 0.")
    return MobileNetV2Small(shape[0], num_classes, width=width)
