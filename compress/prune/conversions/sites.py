"""Where a network has convolutions that could be cheaper, and what surrounds each of them."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.graph.dependencies import Untraceable
from compress.graph.groups import NotPrunable, NotVerified, trace_groups
from compress.graph.renaming import group_on, is_renamable
from compress.graph.slicers import is_depthwise
from compress.graph.units import Axis, ChannelGroup
from compress.measure.measures import evaluating
from compress.prune.conversions.family import Site
from compress.train.folding import scale_of

#: A 1 x 1 convolution with fewer weights is left alone.
POINTWISE_MIN_WEIGHTS = 4096


def shape_classes(module: nn.Module, x_BCHW: Tensor) -> dict[str, list[str]]:
    """Return the paths of the convolutions that could be cheaper, those that cost the same together.

    Left out are depthwise ones, small 1 x 1 ones, and such as are used twice or padded with other than zeros.

    Args:
        module: The network.
        x_BCHW: An input of the size that counts.

    Returns:
        Paths in module order by a description of the shape ("16 -> 16, 3 x 3, at 32 x 32").
    """
    places: dict[str, list[str]] = {}

    def note(path: str) -> Any:
        def hook(layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            places.setdefault(path, []).append(_description(layer, inputs[0]))

        return hook

    times = Counter(id(layer) for _, layer in module.named_modules(remove_duplicate=False))
    found = {p: m for p, m in module.named_modules() if isinstance(m, nn.Conv2d) and times[id(m)] == 1}
    hooks = [layer.register_forward_hook(note(path)) for path, layer in found.items() if _is_candidate(path, layer)]
    try:
        with evaluating(module):
            module(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    classes: dict[str, list[str]] = defaultdict(list)
    for path in found:
        if len(places.get(path, ())) == 1:
            classes[places[path][0]].append(path)
    return dict(classes)


def _is_candidate(path: str, layer: nn.Conv2d) -> bool:
    is_plain = type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and path != ""
    is_large = layer.kernel_size != (1, 1) or layer.weight.numel() >= POINTWISE_MIN_WEIGHTS
    return is_plain and is_large and not is_depthwise(layer)


def _description(layer: nn.Conv2d, x_BCHW: Tensor) -> str:
    height, width = layer.kernel_size
    text = f"{layer.in_channels} -> {layer.out_channels}, {height} x {width}"
    text += f", stride {layer.stride[0]}" if layer.stride != (1, 1) else ""
    text += f", dilation {layer.dilation[0]}" if layer.dilation != (1, 1) else ""
    text += f", {layer.groups} groups" if layer.groups > 1 else ""
    return f"{text}, at {x_BCHW.shape[2]} x {x_BCHW.shape[3]}"


def quiet_groups(module: nn.Module, x_BCHW: Tensor) -> tuple[ChannelGroup, ...]:
    """Return the groups of a network, none for one that cannot be traced; what is left out is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotPrunable)
        warnings.simplefilter("ignore", NotVerified)
        try:
            return trace_groups(module, x_BCHW)
        except Untraceable:
            return ()


def site_at(
    module: nn.Module, path: str, groups: Sequence[ChannelGroup], norms: Mapping[str, str], used: Collection[str]
) -> Site:
    """Return what a conversion may know of the convolution at `path`.

    Args:
        module: The network.
        path: One of `shape_classes`.
        groups: The network's groups of channels.
        norms: Path of the batch norm that alone follows a layer, as `norm_after` has it.
        used: Names of groups whose order is settled.
    """
    layer, parts = module.get_submodule(path), dict(module.named_modules())
    assert isinstance(layer, nn.Conv2d)
    scale_D = torch.ones(layer.out_channels, device=layer.weight.device)
    if path in norms:
        scale_D = scale_of(parts[norms[path]]).detach()
    axes: tuple[Axis, ...] = ("in", "out")
    found = {axis: group_on(groups, path, axis) for axis in axes}
    names = [one[0].name for one in found.values() if one]
    is_loop = len(set(names)) < len(names)
    free = [axis for axis, one in found.items() if one and one[0].name not in used and is_renamable(module, one[0])]
    out = found["out"][0] if found["out"] else None
    rows_DK = folded_rows(module, out, norms) if out and out.name == path else None
    return Site(dense_of(layer), scale_D, frozenset() if is_loop else frozenset(free), rows_DK)


def dense_of(layer: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution without groups that does the same; the layer itself when it has none."""
    if layer.groups == 1:
        return layer
    shape: dict[str, Any] = {k: getattr(layer, k) for k in ("kernel_size", "stride", "padding", "dilation")}
    dense = nn.Conv2d(layer.in_channels, layer.out_channels, bias=layer.bias is not None, device="meta", **shape)
    dense = dense.to_empty(device=layer.weight.device).to(layer.weight.dtype)
    num_inputs, num_outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    with torch.no_grad():
        dense.weight.zero_()
        for g in range(layer.groups):
            rows = slice(g * num_outputs, (g + 1) * num_outputs)
            dense.weight[rows, g * num_inputs : (g + 1) * num_inputs] = layer.weight[rows]
        if layer.bias is not None and dense.bias is not None:
            dense.bias.copy_(layer.bias)
    return dense.requires_grad_(layer.weight.requires_grad).train(layer.training)


def folded_rows(module: nn.Module, group: ChannelGroup, norms: Mapping[str, str]) -> Tensor | None:
    """Return what makes each channel of a group, as rows of kernels and constants; None if that is not all there is.

    Every layer that the channels touch must be a convolution or linear layer that makes or reads them, or the batch
    norm that alone follows one that makes them.
    """
    parts, rows = dict(module.named_modules()), []
    makers = [member for member in group.members if isinstance(parts[member.path], nn.Conv2d | nn.Linear)]
    makers = [member for member in makers if member.axis == "out"]
    followers = {norms[member.path] for member in makers if member.path in norms}
    for member in group.members:
        layer = parts[member.path]
        is_mixing = isinstance(layer, nn.Conv2d | nn.Linear) and getattr(layer, "groups", 1) == 1
        if not is_mixing and member.path not in followers:
            return None
    for member in makers:
        layer = parts[member.path]
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        position_C = torch.tensor([index[0] for index in member.index], device=layer.weight.device)
        if member.multiplicity > 1:
            return None
        weight, shift_D = layer.weight.detach().flatten(1), torch.zeros(member.size, device=layer.weight.device)
        shift_D = shift_D if layer.bias is None else layer.bias.detach()
        if member.path in norms:
            norm = parts[norms[member.path]]
            assert isinstance(norm, _BatchNorm)
            if norm.running_mean is None or norm.weight is None:
                return None
            scale_D = scale_of(norm).detach()
            shift_D = (shift_D - norm.running_mean) * scale_D
            shift_D = shift_D if norm.bias is None else shift_D + norm.bias.detach()
            weight = weight * scale_D[:, None]
        rows.append(torch.cat([weight, shift_D[:, None]], 1)[position_C])
    return torch.cat(rows, 1)
