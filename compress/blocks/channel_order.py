"""Channels put into another order, as a layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Entry of `ChannelOrder.source` for an output channel that is always zero.
ZERO = -1


class ChannelOrder(nn.Module):
    """Channels placed by a table; costs a copy of the feature map and no arithmetic.

    y[:, j] = x[:, source[j]], and 0 where source[j] is -1. Its attributes are all of its structure: cutting
    channels makes a new layer with another table. It adds nothing to the state dictionary.

    Attributes:
        in_channels: Channels taken.
        out_channels: Channels given, `len(source)`.
        source: Input channel of each output channel, or -1.

    >>> ChannelOrder(3, [2, 0, 1])(torch.tensor([5.0, 6.0, 7.0]).view(1, 3, 1, 1)).flatten()
    tensor([7., 5., 6.])
    """

    index: Tensor

    def __init__(self, in_channels: int, source: Sequence[int]) -> None:
        super().__init__()
        assert all(ZERO <= channel < in_channels for channel in source), (source, in_channels)
        self.in_channels, self.out_channels = in_channels, len(source)
        self.source = tuple(int(channel) for channel in source)
        index = torch.tensor([in_channels if channel == ZERO else channel for channel in self.source])
        self.register_buffer("index", index, persistent=False)

    def keep_out(self, kept: Sequence[int]) -> ChannelOrder:
        """Return the layer that gives only the output channels `kept`, in that order."""
        return ChannelOrder(self.in_channels, [self.source[j] for j in kept]).to(self.index.device)

    def keep_in(self, kept: Sequence[int]) -> ChannelOrder:
        """Return the layer that takes only the input channels `kept`; those cut become zeros."""
        position = {channel: new for new, channel in enumerate(kept)}
        source = [position.get(channel, ZERO) for channel in self.source]
        return ChannelOrder(len(kept), source).to(self.index.device)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, out_channels, H, W)."""
        if ZERO in self.source:
            x_BCHW = functional.pad(x_BCHW, (0, 0, 0, 0, 0, 1))
        return x_BCHW.index_select(1, self.index)

    def extra_repr(self) -> str:
        """Structure for `print(module)`."""
        return f"{self.in_channels}, {self.out_channels}"
