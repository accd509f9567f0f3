"""Attentions that can lose heads answer as those in whose place they stand, and read their widths off their weights."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from compress.core.random import generator, seeded
from compress.graph.attention import SelfAttention, is_tight, loosened
from compress.graph.cost_model import CostModel
from compress.graph.groups import trace_groups
from compress.graph.surgery import cut, plan_from_kept
from compress.measure import MEASURES
from tests.compress.graph.networks import network


def shaken(layer: nn.Module) -> nn.Module:
    with seeded(0):
        for parameter in layer.parameters():
            nn.init.normal_(parameter, 0, 0.5)
    return layer.eval()


def both(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return a layer and what takes its place."""
    loose = loosened(nn.Sequential(copy.deepcopy(layer)))[0]
    assert type(loose) is not type(layer)
    assert {name: value.shape for name, value in loose.state_dict().items()} == {
        name: value.shape for name, value in layer.state_dict().items()
    }
    assert not is_tight(nn.Sequential(loose))
    return layer, loose


@pytest.mark.parametrize("kind", [ShiftedWindowAttention, ShiftedWindowAttentionV2])
@pytest.mark.parametrize("shift", [[0, 0], [2, 2], [0, 2]])
@pytest.mark.parametrize("size", [(4, 4), (8, 8), (5, 11), (3, 9)])
def test_windows(kind, shift, size):
    old, new = both(shaken(kind(12, [4, 4], shift, 3)))
    x_BHWC = torch.randn(2, *size, 12, generator=generator(0))
    with torch.no_grad():
        assert torch.allclose(new(x_BHWC), old(x_BHWC), atol=1e-5)


def test_relative_positions():
    old, new = both(shaken(RelativePositionalMultiHeadAttention(12, 4, 9)))
    x_BGPC = torch.randn(2, 3, 9, 12, generator=generator(0))
    with torch.no_grad():
        assert torch.allclose(new(x_BGPC), old(x_BGPC), atol=1e-5)


def test_a_sequence_to_itself():
    old, new = both(shaken(nn.MultiheadAttention(12, 3, batch_first=True)))
    x_BTC = torch.randn(2, 5, 12, generator=generator(0))
    with torch.no_grad():
        assert torch.allclose(new(x_BTC, x_BTC, x_BTC)[0], old(x_BTC, x_BTC, x_BTC)[0], atol=1e-5)
    with pytest.raises(ValueError, match="of a sequence to itself, without masks"):
        new(x_BTC, x_BTC, x_BTC, attn_mask=torch.zeros(5, 5))
    with pytest.raises(ValueError, match="of a sequence to itself"):
        new(x_BTC, x_BTC[:, :3], x_BTC[:, :3])


def test_an_attention_of_another_kind_stays():
    layer = nn.Sequential(nn.MultiheadAttention(12, 3, batch_first=True, add_bias_kv=True))
    assert isinstance(loosened(layer)[0], nn.MultiheadAttention)


HEADS = {
    "vit": ("encoder.layers.encoder_layer_0.self_attention", 3),
    "swin": ("features.1.0.attn.qkv", 3),
    "swin_v2": ("features.3.1.attn.qkv", 6),
    "maxvit": ("blocks.0.layers.0.layers.window_attention.attn_layer.1.to_qkv", 2),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_units(name: str) -> None:
    module, x_BCHW = network(name)
    path, heads = HEADS[name]
    groups = trace_groups(module, x_BCHW)
    group = next(group for group in groups if group.name == path)
    assert group.num_channels == heads
    kept = {path: torch.arange(heads) == 1}
    smaller = cut(module, plan_from_kept(groups, kept))
    model = CostModel(module, groups, x_BCHW)
    assert model.macs(kept) == MEASURES.bind("macs")(smaller, x_BCHW) < model.macs({})
    assert model.params(kept) == MEASURES.bind("params")(smaller, x_BCHW)


def test_only_attentions_near_a_cut_are_replaced() -> None:
    module, x_BCHW = network("vit")
    groups = trace_groups(module, x_BCHW)
    kept = {"encoder.layers.encoder_layer_1.self_attention": torch.tensor([True, False, True])}
    smaller = cut(module, plan_from_kept(groups, kept))
    first, second = (smaller.encoder.layers[k].self_attention for k in range(2))
    assert isinstance(first, nn.MultiheadAttention)
    assert isinstance(second, SelfAttention)
    assert second.in_proj_weight.shape == (24, 12)
    again = trace_groups(smaller, x_BCHW)
    assert next(g for g in again if g.name.endswith("layer_1.self_attention")).num_channels == 2


def test_timm_is_told_the_number_of_heads() -> None:
    timm = pytest.importorskip("timm")
    with seeded(0):
        module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4).eval()
    x_BCHW: Tensor = torch.randn(1, 3, 32, 32, generator=generator(0))
    groups = trace_groups(module, x_BCHW)
    heads = next(group for group in groups if group.name == "blocks.0.attn.qkv")
    assert heads.num_channels == 3
    smaller = cut(module, plan_from_kept(groups, {heads.name: torch.tensor([False, True, True])}))
    assert (smaller.blocks[0].attn.num_heads, module.blocks[0].attn.num_heads) == (2, 3)
    assert smaller(x_BCHW).shape == (1, 4)
