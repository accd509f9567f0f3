"""Units of a network: channels that stand or fall together, and blocks that can be left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

#: "out", "in", or a parameter and one of its dimensions, "layer_scale.0".
Axis = str

#: Name of the group in which every droppable block is a channel: "a block is a channel".
BLOCKS = "blocks"


@dataclass(frozen=True)
class Member:
    """One axis of one layer that a group touches.

    Attributes:
        path: Path of the layer in the network ("layer1.0.conv1").
        axis: "out" or "in"; layers that do not mix channels (norms, depthwise) have "out" alone. A parameter of a
            layer that is no channel layer itself has "name.dimension".
        index: For each channel of the group the positions on this axis that belong to it.
        size: Length of the whole axis; other groups may own the rest of it (concatenation).
    """

    path: str
    axis: Axis
    index: tuple[tuple[int, ...], ...]
    size: int

    @property
    def multiplicity(self) -> int:
        """Positions a channel owns, the same for all: 1, or H * W behind a flatten."""
        return len(self.index[0])

    def positions(self, mask_C: Tensor) -> list[int]:
        """Return the positions of the channels that `mask_C` marks, ascending.

        >>> Member("linear", "in", ((0, 1), (2, 3)), 4).positions(torch.tensor([False, True]))
        [2, 3]
        """
        return sorted(position for c in mask_C.nonzero().flatten().tolist() for position in self.index[c])


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that several layers share: channel c is cut from all members or from none.

    Attributes:
        name: Path of the first layer, in module order, that produces the channels.
        num_channels: Number of channels.
        members: Every layer and axis touched, in module order, "out" before "in".
    """

    name: str
    num_channels: int
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        for member in self.members:
            place = f"{self.name}: {member.path} {member.axis}"
            assert len(member.index) == self.num_channels, f"{place} maps {len(member.index)} channels"
            assert len({len(own) for own in member.index}) == 1, f"{place} has more positions for some channels"


@dataclass(frozen=True)
class Block:
    """A residual block whose input and output have one shape, so that it can be replaced by the identity.

    Attributes:
        name: Its path.
    """

    name: str


def kept_masks(groups: tuple[ChannelGroup, ...], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a boolean mask for every group: those of `kept`, checked, and all True for the others.

    Raises:
        ValueError: For a group that does not exist, a mask of the wrong length, or one that keeps nothing.
    """
    by_name = {group.name: group for group in groups}
    for name, mask_C in kept.items():
        if name not in by_name:
            raise ValueError(f"no group {name!r} in this network. Groups: {', '.join(by_name) or 'none'}.")
        if mask_C.shape != (by_name[name].num_channels,):
            size = by_name[name].num_channels
            raise ValueError(f"group {name!r} has {size} channels, its mask has shape {tuple(mask_C.shape)}.")
        if not mask_C.any():
            raise ValueError(f"the mask of group {name!r} keeps nothing: keep at least one channel, or drop the block.")
    everything = {group.name: torch.ones(group.num_channels, dtype=torch.bool) for group in groups}
    return everything | {name: mask_C.bool() for name, mask_C in kept.items()}


def is_inside(path: str, parents: tuple[str, ...] | list[str]) -> bool:
    """Return whether `path` is one of `parents` or lies below one.

    >>> is_inside("layer1.0.conv1", ["layer1.0"]), is_inside("layer1.01", ["layer1.0"])
    (True, False)
    """
    return any(path == parent or path.startswith(f"{parent}.") for parent in parents)
