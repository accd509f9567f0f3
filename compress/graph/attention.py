"""Attentions from which whole heads, or channels of their input, can be cut.

torch's and torchvision's find the size of a head from the width of their input, so that neither width can change
alone. Here the size of a head is a constant and the number of heads follows from the weights. Parameters, buffers
and children keep their names: a weight file fits both. timm's have the size of a head and are told its number.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Type of an attention by the module that has it and its name -> what takes its place.
LOOSE: dict[tuple[str, str], Callable[[Any], nn.Module]] = {}


def _in_place_of(module: str, *names: str) -> Callable[[Any], Any]:
    def decorate(maker: Any) -> Any:
        LOOSE.update({(module, name): maker for name in names})
        return maker

    return decorate


def loosened(root: nn.Module, near: tuple[str, ...] | None = None) -> nn.Module:
    """Put attentions that can lose heads in the place of those that cannot, in a network that is the caller's own.

    Args:
        root: The network; changed in place.
        near: Only attentions at or just above one of these paths.
    """
    close = None if near is None else {path for own in near for path in _upwards(own)}
    for path, layer in list(root.named_modules()):
        maker = _maker(layer)
        if path and maker is not None and (close is None or path in close):
            parent, _, name = path.rpartition(".")
            setattr(root.get_submodule(parent), name, maker(layer))
    return root


def _upwards(path: str) -> tuple[str, str, str]:
    """Return a path, its parent and the parent of that: the weights of a head may lie in a child's child."""
    parent = path.rpartition(".")[0]
    return path, parent, parent.rpartition(".")[0]


def is_tight(root: nn.Module) -> bool:
    """Return whether `loosened` would change a network."""
    return any(_maker(layer) is not None for layer in root.modules())


def fitted(root: nn.Module) -> nn.Module:
    """Tell layers that remember a width or a number of heads what their weights now have, in place."""
    layer: Any
    for layer in root.modules():
        if _is(layer, "torchvision.models.vision_transformer", "VisionTransformer"):
            layer.hidden_dim = layer.class_token.shape[-1]
        elif getattr(layer, "keeps_heads", False) and hasattr(layer, "num_heads"):
            layer.num_heads = layer.qkv.out_features // (3 * layer.head_dim)
            if hasattr(layer, "attn_dim"):
                layer.attn_dim = layer.num_heads * layer.head_dim
    return root


def _is(layer: nn.Module, module: str, name: str) -> bool:
    """Return whether a layer is of a type that may not be imported yet, and of none that is derived from it."""
    return type(layer) is getattr(sys.modules.get(module), name, None)


def _maker(layer: nn.Module) -> Callable[[Any], nn.Module] | None:
    if type(layer).__module__.startswith("timm.") and not hasattr(layer, "keeps_heads") and _has_plain_heads(layer):
        return _marked
    return next((maker for (module, name), maker in LOOSE.items() if _is(layer, module, name)), None)


def _has_plain_heads(layer: Any) -> bool:
    qkv, num_heads = getattr(layer, "qkv", None), getattr(layer, "num_heads", None)
    return isinstance(qkv, nn.Linear) and isinstance(num_heads, int) and qkv.out_features % (3 * num_heads) == 0


def _marked(layer: Any) -> nn.Module:
    """Keep one of timm's: its forward knows the size of a head, or asks the weights for it."""
    layer.head_dim = layer.qkv.out_features // (3 * layer.num_heads)
    layer.keeps_heads, layer.head_axis = True, ("qkv", "out")
    return layer


def _heads(qkv: Tensor, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v (…, heads, T, head_dim) of (…, T, 3 · heads · head_dim)."""
    q, k, v = qkv.unflatten(-1, (3, -1, head_dim)).unbind(-3)
    return q.transpose(-2, -3), k.transpose(-2, -3), v.transpose(-2, -3)


def _joined(y: Tensor) -> Tensor:
    """Return (…, T, heads · head_dim) of (…, heads, T, head_dim)."""
    return y.transpose(-2, -3).flatten(-2)


@_in_place_of("torch.nn.modules.activation", "MultiheadAttention")
def _multi_head(layer: nn.MultiheadAttention) -> nn.Module:
    is_plain = layer.in_proj_weight is not None and layer.bias_k is None and not layer.add_zero_attn
    return SelfAttention(layer) if is_plain and layer.batch_first else layer


class SelfAttention(nn.Module):
    """torch's attention of a sequence to itself, without masks.

    Attributes:
        head_dim: Width of a head.
    """

    keeps_heads = True
    head_axis = ("", "in_proj_weight.0")
    #: torch's encoder layers ask this; told no, they call the attention instead of computing with its weights.
    batch_first = False

    def __init__(self, old: nn.MultiheadAttention) -> None:
        super().__init__()
        self.head_dim, self.dropout = old.head_dim, old.dropout
        self.in_proj_weight, self.in_proj_bias = old.in_proj_weight, old.in_proj_bias
        self.out_proj = old.out_proj
        self.train(old.training)

    def forward(
        self, query_BTC: Tensor, key_BTC: Tensor, value_BTC: Tensor, need_weights: bool = False, **masks: Any
    ) -> tuple[Tensor, None]:
        """Return the new sequence (B, T, D), and None where torch has the weights."""
        is_alone = query_BTC is key_BTC is value_BTC and not need_weights
        if not is_alone or any(mask is not None and mask is not False for mask in masks.values()):
            raise ValueError("a cut attention is one of a sequence to itself, without masks, that gives no weights.")
        q, k, v = _heads(functional.linear(query_BTC, self.in_proj_weight, self.in_proj_bias), self.head_dim)
        rate = self.dropout if self.training else 0.0
        return self.out_proj(_joined(functional.scaled_dot_product_attention(q, k, v, dropout_p=rate))), None


@_in_place_of("torchvision.models.swin_transformer", "ShiftedWindowAttention", "ShiftedWindowAttentionV2")
class WindowAttention(nn.Module):
    """torchvision's attention inside windows of a picture, which may be shifted by half a window.

    Attributes:
        head_dim: Width of a head.
        window: Height and width of a window.
        shift: By how many pixels windows are shifted, where the picture is larger than a window.
    """

    keeps_heads = True
    head_axis = ("qkv", "out")
    relative_position_index: Tensor
    relative_coords_table: Tensor

    def __init__(self, old: Any) -> None:
        super().__init__()
        self.head_dim = old.qkv.out_features // (3 * old.num_heads)
        self.window, self.shift = tuple(old.window_size), tuple(old.shift_size)
        self.attention_dropout, self.dropout = old.attention_dropout, old.dropout
        self.qkv, self.proj = old.qkv, old.proj
        self.is_cosine = hasattr(old, "logit_scale")
        if self.is_cosine:
            self.logit_scale, self.cpb_mlp = old.logit_scale, old.cpb_mlp
            self.register_buffer("relative_coords_table", old.relative_coords_table)
        else:
            self.relative_position_bias_table = old.relative_position_bias_table
        self.register_buffer("relative_position_index", old.relative_position_index)
        self.train(old.training)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return (B, H, W, D)."""
        height, width = (int(size) for size in x_BHWC.shape[1:3])
        down, right = (-size % window for size, window in zip((height, width), self.window, strict=True))
        x = functional.pad(x_BHWC, (0, 0, 0, right, 0, down))
        size = (height + down, width + right)
        shift = tuple(0 if window >= own else s for own, window, s in zip(size, self.window, self.shift, strict=True))
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        y = self._attended(self._windows(x), self._mask(x, size, shift) if any(shift) else None)
        y = functional.dropout(self.proj(y), self.dropout, self.training)
        rows, columns = size[0] // self.window[0], size[1] // self.window[1]
        y = y.unflatten(2, self.window).unflatten(1, (rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if any(shift):
            y = y.roll(shift, (1, 2))
        return y[:, :height, :width].contiguous()

    def _windows(self, x_BHWC: Tensor) -> Tensor:
        """Return (B, windows, places, C)."""
        down, right = self.window
        parts = x_BHWC.unflatten(2, (-1, right)).unflatten(1, (-1, down))
        return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _mask(self, x: Tensor, size: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
        """Return (windows, 1, places, places): -100 between places that a shift brought together."""
        down, right = (
            _parts(own, (window, s) if s else (), x.device)
            for own, window, s in zip(size, self.window, shift, strict=True)
        )
        region = (3 * down[:, None] + right[None, :]).to(x.dtype)[None, :, :, None]
        region_WP = self._windows(region)[0, :, :, 0]
        return (region_WP[:, None, :] != region_WP[:, :, None]).to(x.dtype).mul(-100.0).unsqueeze(1)

    def _attended(self, x_BWPC: Tensor, mask: Tensor | None) -> Tensor:
        bias = self.qkv.bias
        if self.is_cosine and bias is not None:
            third = bias.shape[0] // 3
            bias = torch.cat([bias[:third], torch.zeros_like(bias[:third]), bias[2 * third :]])
        q, k, v = _heads(functional.linear(x_BWPC, self.qkv.weight, bias), self.head_dim)
        if self.is_cosine:
            q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
            scores = (q @ k.transpose(-2, -1)) * self.logit_scale.clamp(max=math.log(100.0)).exp()
        else:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        scores = scores + self._position_bias()
        if mask is not None:
            scores = scores + mask
        weights = functional.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        return _joined(weights @ v)

    def _position_bias(self) -> Tensor:
        """Return what the distance of two places adds to their score (heads, places, places)."""
        places = self.window[0] * self.window[1]
        table = self.relative_position_bias_table if not self.is_cosine else None
        if table is None:
            table = self.cpb_mlp(self.relative_coords_table).flatten(0, -2)
        bias = table[self.relative_position_index].unflatten(0, (places, places)).permute(2, 0, 1)
        return 16 * bias.sigmoid() if self.is_cosine else bias


def _parts(length: int, edges: tuple[int, ...], device: torch.device) -> Tensor:
    """Return 0 (length,), and 1 more behind each of the last `edges` places."""
    place = torch.arange(length, device=device)
    return torch.stack([place >= length - edge for edge in (*edges, 0)]).sum(0)


@_in_place_of("torchvision.models.maxvit", "RelativePositionalMultiHeadAttention")
class RelativeAttention(nn.Module):
    """torchvision's attention inside the parts of a picture in a MaxVit.

    Attributes:
        head_dim: Width of a head.
    """

    keeps_heads = True
    head_axis = ("to_qkv", "out")
    relative_position_index: Tensor

    def __init__(self, old: Any) -> None:
        super().__init__()
        self.head_dim, self.scale_factor, self.places = old.head_dim, old.scale_factor, old.max_seq_len
        self.to_qkv, self.merge = old.to_qkv, old.merge
        self.relative_position_bias_table = old.relative_position_bias_table
        self.register_buffer("relative_position_index", old.relative_position_index)
        self.train(old.training)

    def forward(self, x_BGPC: Tensor) -> Tensor:
        """Return (B, parts, places, D)."""
        q, k, v = _heads(self.to_qkv(x_BGPC), self.head_dim)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.unflatten(0, (self.places, self.places)).permute(2, 0, 1)
        weights = (q @ (k * self.scale_factor).transpose(-2, -1) + bias).softmax(-1)
        return self.merge(_joined(weights @ v))
