"""Plain stacks of 3x3 convolutions with batch normalisation, for small pictures."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from compress.core.lineage import BUILDERS

#: Convolutions in each of the five stages, by depth.
STAGE_LENGTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
STAGE_CHANNELS = (64, 128, 256, 512, 512)
#: A stage's pooling is left out where the picture has become smaller than this.
POOLED_MIN_PIXELS = 4


class VggSmall(nn.Module):
    """Five stages of convolutions, global average pooling, one linear layer."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, *, depth: int, width: float) -> None:
        super().__init__()
        self.features = nn.Sequential(*_layers(shape, STAGE_LENGTHS[depth], width))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(_scaled(STAGE_CHANNELS[-1], width), num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits (B, num_classes)."""
        logits_BC: Tensor = self.classifier(self.pool(self.features(x_BCHW)).flatten(1))
        return logits_BC


def _layers(shape: tuple[int, int, int], lengths: tuple[int, ...], width: float) -> Iterator[nn.Module]:
    channels, side = shape[0], min(shape[1:])
    for length, full_width in zip(lengths, STAGE_CHANNELS, strict=True):
        for _ in range(length):
            out_channels = _scaled(full_width, width)
            yield nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
            yield nn.BatchNorm2d(out_channels)
            yield nn.ReLU()
            channels = out_channels
        if side >= POOLED_MIN_PIXELS:
            yield nn.MaxPool2d(2)
            side //= 2


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


@BUILDERS.register("vgg_small", paper="Simonyan 2015")
def vgg_small(shape: tuple[int, int, int], num_classes: int, *, depth: int = 16, width: float = 1.0) -> nn.Module:
    """Plain stack of 3x3 convolutions with batch normalisation, for small pictures.

    x <- relu(bn(conv3x3(x))), again and again; the picture is halved after each stage.

    Args:
        shape: (channels, height, width) of one input; any number of channels.
        num_classes: Number of outputs.
        depth: Layers with weights in the paper's count: 11, 13, 16 or 19.
        width: Factor on every number of channels, 64 to 512.

    Returns:
        A module from (B, channels, height, width) to logits (B, num_classes).

    Differs from the paper: batch normalisation after every convolution (whose bias it makes needless); one
    linear layer behind global average pooling instead of three; a pooling is left out below 4 pixels.

    Cost: 313.2 M multiply-adds and 14.7 M parameters for depth 16 on 3x32x32.

    Reference: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", table 1.

    >>> sum(isinstance(m, nn.Conv2d) for m in vgg_small((1, 16, 16), 10, depth=11, width=0.125).modules())
    8
    """
    if depth not in STAGE_LENGTHS:
        raise ValueError(f"vgg_small: depth={depth}; choose one of {', '.join(map(str, STAGE_LENGTHS))}.")
    if width <= 0:
        raise ValueError(f"vgg_small: width={width}; the factor on the channels must be above 0.")
    return VggSmall(shape, num_classes, depth=depth, width=width)
