"""Augmentation of uint8 pictures, one vectorised step a batch, every draw from the given generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

#: (x_BCHW uint8, generator) -> x_BCHW uint8
Augment = Callable[[Tensor, Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class FlipAndCrop:
    """Mirror each picture with probability one half, pad it with zeros and cut its size out again.

    Attributes:
        padding: Zeros on every side, so that a picture moves by at most so many pixels.
        has_flip: Whether to mirror left and right; wrong for writing and digits.
    """

    padding: int
    has_flip: bool = False

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding={self.padding}: write 0 for none, or the largest shift in pixels.")

    def __call__(self, x_BCHW: Tensor, random: Generator) -> Tensor:
        """Return pictures of the same shape and type.

        Cost: one gather; 0.3 ms for 128 pictures of 3x32x32 on one core.

        >>> still = FlipAndCrop(padding=0)
        >>> still(torch.tensor([[[[1, 2]]]]), torch.Generator()).tolist()
        [[[[1, 2]]]]
        """
        batch, channels, height, width = x_BCHW.shape
        rows_BH = _shifted(batch, height, self.padding, random)
        cols_BW = _shifted(batch, width, self.padding, random)
        if self.has_flip:
            is_mirrored_B = torch.rand(batch, generator=random) < 0.5
            cols_BW = torch.where(is_mirrored_B[:, None], cols_BW.flip(1), cols_BW)
        padded_BCK = functional.pad(x_BCHW, (self.padding,) * 4).flatten(2)
        index_BK = (rows_BH[:, :, None] * (width + 2 * self.padding) + cols_BW[:, None, :]).flatten(1)
        picked_BCK = padded_BCK.gather(2, index_BK[:, None].expand(batch, channels, height * width))
        return picked_BCK.view(batch, channels, height, width)


def augmentation(*, padding: int, has_flip: bool) -> Augment | None:
    """Return the augmentation, or None when there is nothing to do."""
    return FlipAndCrop(padding=padding, has_flip=has_flip) if padding or has_flip else None


def _shifted(batch: int, size: int, padding: int, random: Generator) -> Tensor:
    """Return for each picture which of the padded rows (or columns) it keeps: (batch, size) int64."""
    start_B = torch.randint(0, 2 * padding + 1, (batch,), generator=random)
    return start_B[:, None] + torch.arange(size)
