"""Streams: channels that several layers add to, as between residual blocks, beside those inside of blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compress.graph.dependencies import is_producer
from compress.graph.slicers import parameter_axis, slices_itself
from compress.graph.units import ChannelGroup, Member
from compress.train.scoring import evaluating


def inner_groups(module: nn.Module, groups: tuple[ChannelGroup, ...], x_BCHW: Tensor) -> tuple[ChannelGroup, ...]:
    """Return the groups whose channels one layer alone writes, so that no stream between blocks gets narrower.

    Writers are convolutions that are not depthwise, linear layers, matrices of attention, and shortcuts that pad
    channels. A layer that gives fewer places than another writer of the group gives is a gate, as in
    squeeze-and-excite: it scales the channels and writes none.

    Args:
        module: The network; stays as it is.
        groups: Its groups.
        x_BCHW: An input, to see how many places each layer gives.
    """
    places = _places(module, {member.path for group in groups for member in group.members}, x_BCHW)
    found = []
    for group in groups:
        writers = [member for member in group.members if _writes(module, member)]
        counts = [places.get(member.path, 0) // member.size for member in writers]
        if counts.count(max(counts, default=0)) <= 1:
            found.append(group)
    return tuple(found)


def _writes(module: nn.Module, member: Member) -> bool:
    layer, own = module.get_submodule(member.path), parameter_axis(member.axis)
    if own is not None:
        return own[1] == 0 and own[0].endswith("weight") and layer.get_parameter(own[0]).ndim == 2
    return member.axis == "out" and (is_producer(layer) or slices_itself(layer))


def _places(module: nn.Module, paths: set[str], x_BCHW: Tensor) -> dict[str, int]:
    """Return how many numbers each layer gives for one input."""
    found: dict[str, int] = {}

    def note(path: str) -> Any:
        def hook(_: nn.Module, __: Any, out: Any) -> None:
            first = out[0] if isinstance(out, tuple) else out
            if isinstance(first, Tensor):
                found[path] = max(found.get(path, 0), first.numel() // len(x_BCHW))

        return hook

    hooks = [module.get_submodule(path).register_forward_hook(note(path)) for path in sorted(paths)]
    try:
        with evaluating(module), torch.inference_mode():
            module(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return found
