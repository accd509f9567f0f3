"""Which channels are inside of blocks."""

import pytest
import torch
from torch import nn

from compress.graph.groups import trace_groups
from compress.graph.streams import inner_groups
from tests.toys import toy_model


class Bottleneck(nn.Module):
    """A stem, and an inverted residual block with a gate."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.wide = nn.Conv2d(8, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)
        self.narrow = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x_BCHW):
        x_BCHW = self.stem(x_BCHW)
        y_BCHW = self.depthwise(self.wide(x_BCHW))
        gate_BC11 = self.excite(self.squeeze(y_BCHW.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head((x_BCHW + self.narrow(y_BCHW * gate_BC11)).mean((2, 3)))


def names(module, x_BCHW):
    groups = trace_groups(module, x_BCHW)
    return [group.name for group in groups], [group.name for group in inner_groups(module, groups, x_BCHW)]


def test_gates_and_depthwise_layers_write_nothing():
    every, inside = names(Bottleneck(), torch.randn(2, 3, 8, 8))
    assert set(every) == {"stem", "wide", "squeeze"}
    assert set(inside) == {"wide", "squeeze"}


def test_a_stream_has_several_writers():
    model = toy_model()
    every, inside = names(model.module, model.input.example())
    assert every == ["conv1", "block.conv1", "conv2"]
    assert inside == ["block.conv1", "conv2"]


def test_the_network_stays_as_it_was():
    module = Bottleneck().train()
    names(module, torch.randn(2, 3, 8, 8))
    assert module.training
    assert not any(layer._forward_hooks for layer in module.modules())


@pytest.mark.slow
def test_heads_of_attention_are_inside():
    timm = pytest.importorskip("timm")
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10)
    every, inside = names(module, torch.randn(1, 3, 32, 32))
    assert set(every) - set(inside) == {"patch_embed.proj"}
