"""Convolutions on their way to a cheaper form: α = 0 is the old layer, α = 1 the new one.

They live as long as a training does; `compress.prune.fading` puts them in and takes them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Fading(nn.Module):
    """What all fading layers have.

    Attributes:
        target: What the layer becomes, as the plan has it.
        alpha: How far it has come, in [0, 1]; a buffer, so that a checkpoint holds it. It may be set between the
            forward and the backward pass of a step, which works on a copy.
    """

    alpha: Tensor

    def __init__(self, target: Mapping[str, Any]) -> None:
        super().__init__()
        self.target = dict(target)
        self.register_buffer("alpha", torch.zeros(()))

    def extra_repr(self) -> str:
        """Structure for `print(module)`."""
        return f"to={self.target['to']!r}"


class FadingGroups(Fading):
    """A dense convolution whose weights between different groups fade away.

    W(α)_dc = W_dc inside a group, (1 - α) W_dc between groups.

    >>> dense, inside_DC = nn.Conv2d(2, 2, 1, bias=False), torch.eye(2)
    >>> _ = nn.init.ones_(dense.weight)
    >>> layer = FadingGroups(dense, inside_DC, {"to": "grouped", "groups": 2})
    >>> _ = layer.alpha.fill_(0.25)
    >>> layer(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)).flatten().tolist()
    [2.5, 2.75]
    """

    inside: Tensor

    def __init__(self, dense: nn.Conv2d, inside_DC: Tensor, target: Mapping[str, Any]) -> None:
        super().__init__(target)
        assert dense.groups == 1
        assert inside_DC.shape == dense.weight.shape[:2]
        self.dense = dense
        self.register_buffer("inside", inside_DC.to(dense.weight)[:, :, None, None], persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return what the convolution with faded weights gives."""
        dense, alpha = self.dense, self.alpha.clone()
        weight = dense.weight * (1 - alpha * (1 - self.inside))
        return functional.conv2d(x_BCHW, weight, dense.bias, dense.stride, dense.padding, dense.dilation)


class FadingPair(Fading):
    """Two layers side by side, both in training.

    y = (1 - α) old(x) + α new(x).
    """

    def __init__(self, old: nn.Module, new: nn.Module, target: Mapping[str, Any]) -> None:
        super().__init__(target)
        self.old, self.new = old, new

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the mixture of both outputs."""
        alpha = self.alpha.clone()
        y_BDHW: Tensor = (1 - alpha) * self.old(x_BCHW) + alpha * self.new(x_BCHW)
        return y_BDHW
