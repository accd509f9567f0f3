"""Gates in front of everything that reads a channel, and around blocks, for as long as a context lasts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from compress.graph.places import Place
from compress.graph.slicers import parameter_axis, slices_itself
from compress.graph.units import Block, ChannelGroup
from compress.measure.measures import evaluating

#: (site, what its first reader sees) -> factors (B, num_gates), or (1, num_gates) for all inputs alike. What is seen
#: is a function that returns the mean of each channel over its places, (B, num_features), for gates that look.
Gate = Callable[["Site", Callable[[], Tensor]], Tensor]
#: Inputs (B, C, H, W) -> outputs of the gated network.
Run = Callable[[Tensor], Tensor]


class NotGated(UserWarning):
    """Channels that got no gate, and why."""


@dataclass(frozen=True)
class Site:
    """A set of gates: one for each channel of a group, or the one of a block.

    Attributes:
        name: Name of the group, or path of the block.
        called: Readers that are called as layers; their gates stand on what they get.
        taken: Readers whose weights somebody else takes; their gates stand on those weights.
        num_gates: C of the group; 1 for a block.
        num_features: Number of means that its gate can see: C of the group, or the channels that enter the block.
        is_shared: Whether all inputs of a batch must have one factor, because some reader sees something else than
            one row for each input (windows of a picture), or is reached through its weights.
    """

    name: str
    called: tuple[Place, ...]
    taken: tuple[Place, ...]
    num_gates: int
    num_features: int
    is_shared: bool

    @property
    def is_block(self) -> bool:
        """Whether the gate is that of a block."""
        return not self.called and not self.taken


def find_sites(
    module: nn.Module, groups: tuple[ChannelGroup, ...], blocks: Sequence[Block], x_BCHW: Tensor
) -> tuple[Site, ...]:
    """Return where gates can be put: groups in their order, then blocks in theirs.

    Channels that nothing reads, and those that pass a reader that is neither called nor has a weight, are left out
    with a warning.

    Args:
        module: The network; run once.
        groups: Its groups.
        blocks: Its blocks that may be left out.
        x_BCHW: An input, on the network's device.
    """
    own = {group.name: [Place(module, group.name, member) for member in group.members] for group in groups}
    readers = {name: [place for place in places if place.reads] for name, places in own.items()}
    paths = {place.member.path for places in readers.values() for place in places} | {block.name for block in blocks}
    shapes = _shapes_seen(module, paths, x_BCHW)
    sites = []
    for group in groups:
        called = tuple(p for p in readers[group.name] if p.member.path in shapes and _sees_channels(p))
        taken = tuple(p for p in readers[group.name] if p not in called)
        if not called and not taken:
            warnings.warn(f"channels of {group.name} get no gates: nothing reads them.", NotGated, stacklevel=2)
        elif lost := [place.member.path for place in taken if not _has_plain_weight(place)]:
            reason = f"{', '.join(lost)} is never called"
            warnings.warn(f"channels of {group.name} get no gates: {reason}.", NotGated, stacklevel=2)
        else:
            rows = {shape[0] for place in called for shape in shapes[place.member.path]}
            number = group.num_channels
            sites.append(Site(group.name, called, taken, number, number, bool(taken) or rows != {len(x_BCHW)}))
    for block in blocks:
        if block.name in shapes:
            first, rows = shapes[block.name][0], {shape[0] for shape in shapes[block.name]}
            features = first[_block_channels(len(first))]
            sites.append(Site(block.name, (), (), 1, features, rows != {len(x_BCHW)}))
    return tuple(sites)


@contextmanager
def gated(module: nn.Module, sites: Sequence[Site], gate: Gate) -> Iterator[Run]:
    """Multiply every channel by its factor in front of each of its readers, and y - x of every block, y = block(x).

    A factor of 0 in front of every reader is the same as cutting the channel, but for norms over channels, which
    then have zeros in their statistics; a factor of 0 for a block is the same as dropping it.

    Args:
        module: The network; its hooks are gone when the context ends.
        sites: From `find_sites`.
        gate: Asked once for each reader and each call of it; it must remember if it wants to answer the same.

    Yields:
        The function that runs the network with its gates.
    """
    taken = [(site, place) for site in sites for place in site.taken]

    def run(x_BCHW: Tensor) -> Tensor:
        weights: dict[str, Tensor] = {}
        for site, place in taken:
            factors_1C = gate(site, lambda site=site: x_BCHW.new_zeros(1, site.num_features))  # type: ignore[misc]
            before = weights.get(place.weight_name, place.weight)
            assert before is not None
            weights[place.weight_name] = scaled_weight(place, before, factors_1C[0])
        y: Tensor = functional_call(module, weights, (x_BCHW,)) if weights else module(x_BCHW)
        return y

    hooks = []
    try:
        for site in sites:
            hooks += [place.layer.register_forward_pre_hook(_in_front(site, place, gate)) for place in site.called]
            if site.is_block:
                hooks.append(module.get_submodule(site.name).register_forward_hook(_around(site, gate)))
        yield run
    finally:
        for hook in hooks:
            hook.remove()


def scaled_weight(place: Place, weight: Tensor, factors_C: Tensor) -> Tensor:
    """Return the weight of a reader with what belongs to each channel times its factor."""
    factors_S = _spread(_owners(place).to(factors_C.device), factors_C.unsqueeze(0))[0]
    shape = [1] * weight.ndim
    shape[place.dim] = weight.shape[place.dim]
    if isinstance(place.layer, _ConvNd) and place.layer.groups > 1:
        parts = weight.unflatten(0, (place.layer.groups, -1))
        return (parts * factors_S.view(place.layer.groups, *shape)).flatten(0, 1)
    return weight * factors_S.view(shape)


def _owners(place: Place) -> Tensor:
    """Return the channel that owns each position of the axis (S,); C where the positions belong to other groups."""
    index_CM = torch.tensor(place.member.index)
    owner_S = torch.full((place.member.size,), len(index_CM))
    owner_S[index_CM] = torch.arange(len(index_CM))[:, None]
    return owner_S


def _spread(owner_S: Tensor, factors_BC: Tensor) -> Tensor:
    """Return a factor for every position of an axis (B, S): that of its owner, 1 where there is none."""
    return torch.cat([factors_BC, factors_BC.new_ones(len(factors_BC), 1)], 1)[:, owner_S]


def _sees_channels(place: Place) -> bool:
    """Return whether the channels lie on a known dimension of what a reader gets."""
    is_known = isinstance(place.layer, nn.Linear | _ConvNd) or slices_itself(place.layer)
    return is_known and parameter_axis(place.member.axis) is None


def _has_plain_weight(place: Place) -> bool:
    return place.weight is not None and not (isinstance(place.layer, _ConvNd) and place.layer.groups > 1)


def _shapes_seen(module: nn.Module, paths: set[str], x_BCHW: Tensor) -> Mapping[str, list[torch.Size]]:
    """Return the shapes of the first argument of the layers at `paths` that are called with one."""
    shapes: dict[str, list[torch.Size]] = {}

    def note(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs:
                shapes.setdefault(path, []).append(inputs[0].shape)

        return hook

    hooks = [module.get_submodule(path).register_forward_pre_hook(note(path)) for path in sorted(paths)]
    try:
        with evaluating(module):
            module(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _in_front(site: Site, place: Place, gate: Gate) -> Callable[..., tuple[Any, ...]]:
    """Return the hook that scales what one reader gets."""
    is_last, owner_S = isinstance(place.layer, nn.Linear), _owners(place)

    def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]
        dim = x.ndim - 1 if is_last else 1

        def means() -> Tensor:
            return place.pick(place.channels_first(x, len(x))).mean(2)

        factors_BS = _spread(owner_S.to(x.device), gate(site, means))
        shape = [len(factors_BS)] + [1] * (x.ndim - 1)
        shape[dim] = place.member.size
        return (x * factors_BS.view(shape), *inputs[1:])

    return hook


def _around(site: Site, gate: Gate) -> Callable[..., Tensor]:
    """Return the hook that goes from the identity (0) to the block (1)."""

    def hook(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x = inputs[0]

        def means() -> Tensor:
            values = x.movedim(_block_channels(x.ndim), 1)
            return values.flatten(2).mean(2) if x.ndim > 2 else values

        factors_B1 = gate(site, means)
        return torch.lerp(x, output, factors_B1.view(-1, *(1 for _ in x.shape[1:])).expand_as(x))

    return hook


def _block_channels(ndim: int) -> int:
    """Return the dimension of a block's input that holds its channels: (B, C, H, W), (B, T, C) or (B, C)."""
    return 2 if ndim == 3 else 1
