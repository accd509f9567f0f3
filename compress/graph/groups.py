"""Find the units of a network: groups of channels that must be cut together, and blocks that can go.

How channels are traced stays behind `components`; everybody else sees `ChannelGroup`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor, nn

from compress.core.garbage import no_collection
from compress.graph.dependencies import Component, Slot, components
from compress.graph.residual import find_blocks
from compress.graph.slicers import axis_size
from compress.graph.units import Axis, Block, ChannelGroup, Member, is_inside, kept_masks
from compress.graph.verification import NotPrunable, NotVerified, leave_out, verified

__all__ = [
    "Block",
    "ChannelGroup",
    "Member",
    "NotPrunable",
    "NotVerified",
    "find_blocks",
    "is_inside",
    "kept_masks",
    "trace_groups",
]


def trace_groups(module: nn.Module, x_BCHW: Tensor, *, is_verified: bool = True) -> tuple[ChannelGroup, ...]:
    """Return the groups of channels of `module` that can be cut, in module order.

    Left out are channels that are outputs of the network. Channels that touch something that cannot be cut, and
    those that all stand or fall together, are left out with a warning.

    Args:
        module: The network; not changed.
        x_BCHW: An input to trace it with.
        is_verified: Cut random channels once and compare with zeroing them. A group for which the two differ
            is left out with a warning, so that a network that defeats the tracing is not cut wrongly.
    """
    with no_collection():
        groups = _found(module, x_BCHW)
    return verified(module, groups, x_BCHW) if is_verified else groups


def _found(module: nn.Module, x_BCHW: Tensor) -> tuple[ChannelGroup, ...]:
    """Return what the tracing says. It keeps some thousand small lists; searching them again and again takes longer."""
    order = {path: k for k, (path, _) in enumerate(module.named_modules())}
    layouts: dict[tuple[Slot, tuple[tuple[str, Axis, int], ...]], list[Component]] = defaultdict(list)
    obstacles: dict[str, set[str]] = defaultdict(set)
    ordered: dict[tuple[Slot, ...], list[Slot]] = {}
    for component in components(module, x_BCHW):
        origin = min(component.makers, key=lambda slot: order[slot[0]])
        if component.obstacles and not component.is_output:
            obstacles[origin[0]] |= component.obstacles
        elif not component.is_output:
            met = tuple(component.slots)
            if met not in ordered:
                ordered[met] = sorted(met, key=lambda slot: (order[slot[0]], slot[1] == "in", slot[1]))
            layout = tuple((*slot, len(component.slots[slot])) for slot in ordered[met])
            layouts[origin, layout].append(component)
    for name, reasons in obstacles.items():
        leave_out(name, "they touch " + ", ".join(sorted(reasons)))
    groups: list[ChannelGroup] = []
    for (origin, layout), own in sorted(layouts.items(), key=lambda item: (order[item[0][0][0]], _first(*item))):
        name = origin[0]
        if len(own) == 1 and len(own[0].slots[origin]) > 1:
            leave_out(name, f"{len(own[0].slots[origin])} of them stand or fall together, and nothing else is left")
            continue
        part = sum(group.name.partition("#")[0] == name for group in groups)
        groups.append(_group(module, f"{name}#{part}" if part else name, origin, layout, own))
    return tuple(groups)


def _first(key: tuple[Slot, object], own: Sequence[Component]) -> int:
    return min(component.slots[key[0]][0] for component in own)


def _group(
    module: nn.Module, name: str, origin: Slot, layout: tuple[tuple[str, Axis, int], ...], own: Sequence[Component]
) -> ChannelGroup:
    """Number the components by their position in the layer that gives the name."""
    ordered = sorted(own, key=lambda component: component.slots[origin])
    members = []
    for path, axis, _ in layout:
        index = tuple(tuple(component.slots[path, axis]) for component in ordered)
        members.append(Member(path, axis, index, axis_size(module.get_submodule(path), axis)))
    return ChannelGroup(name, len(ordered), tuple(members))
