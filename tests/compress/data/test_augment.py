"""Flips and crops, against a slow loop and by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from compress.core.random import generator
from compress.data.augment import FlipAndCrop, augmentation


def test_every_picture_is_a_window_of_its_padded_self() -> None:
    x_BCHW = torch.randint(1, 256, (40, 3, 6, 5), dtype=torch.uint8, generator=generator(0))
    y_BCHW = FlipAndCrop(padding=2, has_flip=True)(x_BCHW, generator(1))
    assert y_BCHW.dtype == torch.uint8
    shifts, flips = set(), set()
    for x_CHW, y_CHW in zip(x_BCHW, y_BCHW, strict=True):
        matches = [
            (top, left, is_flipped)
            for is_flipped in (False, True)
            for top in range(5)
            for left in range(5)
            if torch.equal(window(x_CHW, top, left, is_flipped), y_CHW)
        ]
        assert len(matches) == 1
        shifts.add(matches[0][:2])
        flips.add(matches[0][2])
    assert len(shifts) > 10
    assert flips == {False, True}


def window(x_CHW: torch.Tensor, top: int, left: int, is_flipped: bool) -> torch.Tensor:
    cut = functional.pad(x_CHW, (2, 2, 2, 2))[:, top : top + x_CHW.shape[1], left : left + x_CHW.shape[2]]
    return cut.flip(2) if is_flipped else cut


def test_without_flip_nothing_is_mirrored() -> None:
    x_BCHW = torch.tensor([1, 2], dtype=torch.uint8).view(1, 1, 1, 2).repeat(64, 1, 1, 1)
    assert torch.equal(FlipAndCrop(padding=0)(x_BCHW, generator(0)), x_BCHW)
    mirrored = FlipAndCrop(padding=0, has_flip=True)(x_BCHW, generator(0))[:, 0, 0].tolist()
    assert 16 < mirrored.count([2, 1]) < 48
    assert mirrored.count([1, 2]) + mirrored.count([2, 1]) == 64


def test_the_input_is_not_changed_and_the_generator_decides() -> None:
    x_BCHW = torch.randint(0, 256, (8, 1, 6, 6), dtype=torch.uint8, generator=generator(0))
    before, augment = x_BCHW.clone(), FlipAndCrop(padding=2)
    assert torch.equal(augment(x_BCHW, generator(5)), augment(x_BCHW, generator(5)))
    assert not torch.equal(augment(x_BCHW, generator(5)), augment(x_BCHW, generator(6)))
    assert torch.equal(x_BCHW, before)


def test_nothing_to_do_is_none_and_negative_padding_is_refused() -> None:
    assert augmentation(padding=0, has_flip=False) is None
    assert augmentation(padding=1, has_flip=False) == FlipAndCrop(padding=1)
    with pytest.raises(ValueError, match="padding=-1"):
        augmentation(padding=-1, has_flip=False)
