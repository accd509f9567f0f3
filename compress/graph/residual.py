"""Find the residual blocks of a network that can be left out, by their type."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import nn

from compress.graph.units import Block, is_inside


def _always(block: Any) -> bool:
    return True


def _keeps_shape(block: Any) -> bool:
    """Return whether a block adds its input as it is: stride 1 and nothing in the shortcut."""
    return block.downsample is None and block.stride in (1, (1, 1))


def _has_plain(name: str) -> Callable[[Any], bool]:
    """Return a test for blocks in whose shortcut, the child `name`, nothing happens."""
    return lambda block: isinstance(getattr(block, name), nn.Identity)


#: Types of blocks that are input + something, by module and name, and when the input is added as it is. (Units of a
#: ShuffleNet are none: without one, the order of the channels behind it is another.)
RESIDUAL: dict[tuple[str, str], Callable[[Any], bool]] = {
    ("torchvision.models.resnet", "BasicBlock"): _keeps_shape,
    ("torchvision.models.resnet", "Bottleneck"): _keeps_shape,
    ("torchvision.models.regnet", "ResBottleneckBlock"): lambda block: block.proj is None,
    ("torchvision.models.mnasnet", "_InvertedResidual"): lambda block: block.apply_residual,
    ("torchvision.models.convnext", "CNBlock"): _always,
    ("torchvision.models.vision_transformer", "EncoderBlock"): _always,
    ("torchvision.models.swin_transformer", "SwinTransformerBlock"): _always,
    ("torchvision.models.swin_transformer", "SwinTransformerBlockV2"): _always,
    ("torchvision.models.maxvit", "PartitionAttentionLayer"): _always,
    ("torchvision.models.maxvit", "MBConv"): _has_plain("proj"),
    ("timm.models.resnet", "BasicBlock"): _keeps_shape,
    ("timm.models.resnet", "Bottleneck"): _keeps_shape,
    ("timm.models.regnet", "Bottleneck"): _has_plain("downsample"),
    ("timm.models.convnext", "ConvNeXtBlock"): _has_plain("shortcut"),
    ("timm.models.vision_transformer", "Block"): _always,
    ("timm.models.swin_transformer", "SwinTransformerBlock"): _always,
    ("timm.models.mlp_mixer", "MixerBlock"): _always,
}
#: Attributes by which a block says itself that its input is added as it is: ours, torchvision's, timm's.
SAYS_SO = ("is_droppable", "use_res_connect", "has_skip")


def find_blocks(module: nn.Module) -> tuple[Block, ...]:
    """Return the residual blocks of `module` that can be replaced by the identity, in module order.

    A block is recognised by its type or by an attribute that is true: `is_droppable`, torchvision's
    `use_res_connect`, timm's `has_skip`. One that is used at several places stays: it cannot go at one of them.
    """
    known = {
        getattr(sys.modules[place], name): test for (place, name), test in RESIDUAL.items() if place in sys.modules
    }
    found: list[Block] = []
    uses = Counter(id(layer) for _, layer in module.named_modules(remove_duplicate=False))
    for path, layer in module.named_modules():
        if not path or is_inside(path, [block.name for block in found]):
            continue
        test = next((known[base] for base in type(layer).__mro__ if base in known), None)
        is_droppable = test(layer) if test else any(getattr(layer, name, False) is True for name in SAYS_SO)
        if is_droppable and uses[id(layer)] == 1:
            found.append(Block(path))
    return tuple(found)
