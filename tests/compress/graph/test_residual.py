"""Residual blocks of the families that we know: without any of them the network still runs and has its output."""

import pytest
import torch
from torch import nn

from compress.graph.residual import find_blocks
from compress.graph.surgery import cut
from tests.compress.graph.networks import network
from tests.toys import ToyBlock

FOUND = {
    "resnext": 0,
    "shufflenet": 0,
    "convnext": 3,
    "vit": 2,
    "swin": 4,
    "swin_v2": 4,
    "maxvit": 4,
}


@pytest.mark.parametrize("name", FOUND)
def test_every_block_can_go(name: str) -> None:
    module, x_BCHW = network(name)
    blocks = [block.name for block in find_blocks(module)]
    assert len(blocks) == FOUND[name]
    with torch.no_grad():
        whole = module(x_BCHW)
        for dropped in (*([block] for block in blocks), blocks):
            left = cut(module, {"kind": "cut", "dropped": list(dropped), "layers": {}})(x_BCHW)
            assert left.shape == whole.shape
            assert not dropped or not torch.allclose(left, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "name", "count"),
    [
        ("torchvision", "regnet_y_400mf", 12),
        ("torchvision", "mnasnet0_5", 10),
        ("torchvision", "efficientnet_b0", 9),
        ("timm", "resnet26", 4),
        ("timm", "regnety_002", 9),
        ("timm", "convnext_atto", 12),
        ("timm", "efficientnet_lite0", 9),
        ("timm", "mobilenetv3_small_050", 7),
    ],
)
def test_every_block_of_larger_networks_can_go(library: str, name: str, count: int) -> None:
    models = pytest.importorskip(f"{library}.models" if library == "torchvision" else library)
    make = models.get_model if library == "torchvision" else models.create_model
    module, x_BCHW = make(name, num_classes=5).eval(), torch.randn(1, 3, 64, 64)
    blocks = [block.name for block in find_blocks(module)]
    assert len(blocks) == count
    with torch.no_grad():
        left = cut(module, {"kind": "cut", "dropped": blocks, "layers": {}})(x_BCHW)
    assert left.shape == (1, 5)


def test_a_block_that_is_used_twice_stays() -> None:
    shared = ToyBlock(4)
    once = [block.name for block in find_blocks(nn.Sequential(shared, ToyBlock(4), nn.Sequential(shared)))]
    assert once == ["1"]
