"""An order of channels: what it gives, and how it loses channels."""

import torch

from compress.blocks.channel_order import ChannelOrder
from compress.core.random import generator


def test_gives_what_the_table_says_and_zeros():
    x_BCHW = torch.randn(2, 4, 3, 3, generator=generator(0, "x"))
    given = ChannelOrder(4, [3, -1, 0, 0])(x_BCHW)
    assert torch.equal(given[:, [0, 2, 3]], x_BCHW[:, [3, 0, 0]])
    assert not given[:, 1].any()


def test_loses_channels_on_both_sides():
    x_BCHW = torch.randn(2, 4, 3, 3, generator=generator(0, "x"))
    order = ChannelOrder(4, [3, 1, 0, 2])
    assert torch.equal(order.keep_out([0, 2])(x_BCHW), order(x_BCHW)[:, [0, 2]])
    fewer = order.keep_in([0, 3])
    assert fewer.source == (1, -1, 0, -1)
    masked = x_BCHW.clone()
    masked[:, [1, 2]] = 0
    assert torch.equal(fewer(x_BCHW[:, [0, 3]]), order(masked))


def test_adds_nothing_to_the_state():
    assert ChannelOrder(2, [1, 0]).state_dict() == {}
    assert "2, 2" in repr(ChannelOrder(2, [1, 0]))
