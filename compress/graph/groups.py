"""Find the units of a network: groups of channels that must be cut together, and blocks that can go.

Torch-Pruning's dependency graph stays behind `trace_groups`; everybody else sees `ChannelGroup`.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.core.random import generator
from compress.graph.dependencies import Component, components, is_producer
from compress.graph.slicers import axis_size
from compress.graph.surgery import cut, masked, plan_from_kept
from compress.graph.units import Axis, Block, ChannelGroup, Member, is_inside, kept_masks

__all__ = ["Block", "ChannelGroup", "Member", "find_blocks", "is_inside", "kept_masks", "trace_groups"]


class NotPrunable(UserWarning):
    """Channels that stay whole, and why."""


class NotVerified(UserWarning):
    """Channels that may be cut although no numbers confirm that the tracing got them right."""


def trace_groups(module: nn.Module, x_BCHW: Tensor, *, is_verified: bool = True) -> tuple[ChannelGroup, ...]:
    """Return the groups of channels of `module` that can be cut, in module order.

    Left out are channels that are outputs of the network. Channels that touch something that cannot be cut
    (grouped convolutions, bare parameters, unknown layers) are left out with a warning.

    Args:
        module: The network; not changed.
        x_BCHW: An input to trace it with.
        is_verified: Cut random channels once and compare with zeroing them. A group for which the two differ
            is left out with a warning, so that a network that defeats the tracing is not cut wrongly. Channels that
            a LayerNorm normalizes are the exception, because it sees zeros otherwise than nothing: for them only the
            shape of the output is checked, and a warning (NotVerified) names them.
    """
    order = {path: k for k, (path, _) in enumerate(module.named_modules())}
    producers = {path for path, layer in module.named_modules() if is_producer(layer)}
    layouts: dict[tuple[str, tuple[tuple[str, Axis, int], ...]], list[Component]] = defaultdict(list)
    obstacles: dict[str, set[str]] = defaultdict(set)
    for component in components(module, x_BCHW):
        made_by = [path for path, axis in component.slots if axis == "out" and path in producers]
        name = min(made_by, key=order.__getitem__)
        if component.obstacles and not component.is_output:
            obstacles[name] |= component.obstacles
        elif not component.is_output:
            slots = sorted(component.slots, key=lambda slot: (order[slot[0]], slot[1] == "in"))
            layout = tuple((path, axis, len(component.slots[path, axis])) for path, axis in slots)
            layouts[name, layout].append(component)
    for name, reasons in obstacles.items():
        _warn(name, "they touch " + ", ".join(sorted(reasons)))
    groups: list[ChannelGroup] = []
    for (name, layout), own in sorted(layouts.items(), key=lambda item: (order[item[0][0]], _first(*item))):
        part = sum(group.name.partition("#")[0] == name for group in groups)
        groups.append(_group(module, f"{name}#{part}" if part else name, layout, own))
    return _verified(module, tuple(groups), x_BCHW) if is_verified else tuple(groups)


def _first(key: tuple[str, object], own: Sequence[Component]) -> int:
    return min(min(component.slots[key[0], "out"]) for component in own)


def _group(
    module: nn.Module, name: str, layout: tuple[tuple[str, Axis, int], ...], own: Sequence[Component]
) -> ChannelGroup:
    """Number the components by their position in the layer that gives the name."""
    origin: tuple[str, Axis] = (name.partition("#")[0], "out")
    ordered = sorted(own, key=lambda component: min(component.slots[origin]))
    members = []
    for path, axis, _ in layout:
        index = tuple(tuple(sorted(component.slots[path, axis])) for component in ordered)
        members.append(Member(path, axis, index, axis_size(module.get_submodule(path), axis)))
    return ChannelGroup(name, len(ordered), tuple(members))


def _verified(module: nn.Module, groups: tuple[ChannelGroup, ...], x_BCHW: Tensor) -> tuple[ChannelGroup, ...]:
    """Return the groups whose cut equals their mask, and normalized ones whose cut leaves the output's shape."""
    normalized = [group.name for group in groups if _is_normalized(module, group)]
    compared = _sound(module, tuple(group for group in groups if group.name not in normalized), x_BCHW)
    names = {group.name for group in compared} | set(normalized)
    if not normalized:
        return compared
    sound = _sound(module, tuple(group for group in groups if group.name in names), x_BCHW)
    if unsure := [group.name for group in sound if group.name in normalized]:
        warnings.warn(
            f"channels of {', '.join(unsure)} pass a LayerNorm: that cutting them is right was checked by shape "
            f"alone, not by numbers. Compare accuracy before and after the cut.",
            NotVerified,
            stacklevel=3,
        )
    return sound


def _is_normalized(module: nn.Module, group: ChannelGroup) -> bool:
    return any(isinstance(module.get_submodule(member.path), nn.LayerNorm) for member in group.members)


def _sound(module: nn.Module, groups: tuple[ChannelGroup, ...], x_BCHW: Tensor) -> tuple[ChannelGroup, ...]:
    """Return the groups that show no difference: first all at once, one by one only when that fails."""
    if not groups or _difference(module, groups, x_BCHW) is None:
        return groups
    sound = []
    for group in groups:
        reason = _difference(module, (group,), x_BCHW)
        if reason is None:
            sound.append(group)
        else:
            _warn(group.name, f"cutting them does not equal zeroing them ({reason})")
    if len(sound) == len(groups):
        raise ValueError(
            "each group of channels can be cut by itself but not all together: this network cannot be traced. "
            "Pass is_verified=False to look at the groups."
        )
    return _sound(module, tuple(sound), x_BCHW)


def _difference(module: nn.Module, groups: tuple[ChannelGroup, ...], x_BCHW: Tensor) -> str | None:
    """Cut about half of the channels and say how the result differs from zeroing them, or None.

    Numbers are compared unless one of the groups is normalized by a LayerNorm.
    """
    kept = {}
    for group in groups:
        draw_C = torch.rand(group.num_channels, generator=generator(0, "verify", group.name))
        kept[group.name] = draw_C >= draw_C.median() if group.num_channels > 1 else draw_C >= 0
    try:
        with torch.no_grad():
            whole = masked(module, groups, {}).eval()(x_BCHW)
            zeroed = masked(module, groups, kept).eval()(x_BCHW)
            smaller = cut(module, plan_from_kept(groups, kept)).eval()(x_BCHW)
    except (RuntimeError, ValueError, IndexError) as error:
        return str(error).splitlines()[0]
    if smaller.shape != whole.shape:
        return f"the output becomes {tuple(smaller.shape)}"
    if any(_is_normalized(module, group) for group in groups):
        return None
    gap, effect = (smaller - zeroed).abs().max(), (zeroed - whole).abs().max()
    is_equal = bool(gap <= 1e-3 * effect + 1e-5 * whole.abs().max())
    return None if is_equal else f"outputs differ by {float(gap):.2g}"


def _warn(name: str, reason: str) -> None:
    warnings.warn(f"channels of {name} are never cut: {reason}.", NotPrunable, stacklevel=3)


def find_blocks(module: nn.Module) -> tuple[Block, ...]:
    """Return the residual blocks of `module` that can be replaced by the identity, in module order.

    A block is recognised by an attribute `is_droppable` that is true, by torchvision's `use_res_connect`,
    or as torchvision's BasicBlock or Bottleneck with stride 1 and no downsampling.
    """
    resnet = sys.modules.get("torchvision.models.resnet")
    known = (resnet.BasicBlock, resnet.Bottleneck) if resnet else ()
    found: list[Block] = []
    for path, layer in module.named_modules():
        if not path or is_inside(path, [block.name for block in found]):
            continue
        if isinstance(layer, known):
            is_droppable = layer.downsample is None and layer.stride in (1, (1, 1))
        else:
            is_droppable = getattr(layer, "is_droppable", False) or getattr(layer, "use_res_connect", False)
        if is_droppable is True:
            found.append(Block(path))
    return tuple(found)
