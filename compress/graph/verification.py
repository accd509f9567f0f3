"""Is the tracing right? Cut random channels and compare with the whole network in which they carry nothing."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from compress.core.random import generator
from compress.graph.surgery import cut_in_place, masked, plan_from_kept
from compress.graph.units import ChannelGroup


class NotPrunable(UserWarning):
    """Channels that stay whole, and why."""


class NotVerified(UserWarning):
    """Channels that may be cut although no numbers confirm that the tracing got them right."""


def verified(module: nn.Module, groups: tuple[ChannelGroup, ...], x_BCHW: Tensor) -> tuple[ChannelGroup, ...]:
    """Return the groups whose cut equals their mask, together."""
    tested = unlike(module)
    with torch.no_grad():
        whole = tested(x_BCHW)
    return _fitting(tested, (), groups, x_BCHW, whole)


def _fitting(
    tested: nn.Module, sound: tuple[ChannelGroup, ...], more: tuple[ChannelGroup, ...], x_BCHW: Tensor, whole: Tensor
) -> tuple[ChannelGroup, ...]:
    """Return those of `more` that can be cut together with the sound ones, found by halving; leave the others out."""
    reason = _difference(tested, (*sound, *more), x_BCHW, whole) if more else None
    if reason is None:
        return more
    if len(more) == 1:
        leave_out(more[0].name, f"cutting them does not equal zeroing them ({reason})")
        return ()
    half = len(more) // 2
    first = _fitting(tested, sound, more[:half], x_BCHW, whole)
    return (*first, *_fitting(tested, (*sound, *first), more[half:], x_BCHW, whole))


def unlike(module: nn.Module) -> nn.Module:
    """Return a copy for the comparison, in which no parameter and no statistic has the same value everywhere.

    Fresh networks are full of zeros (a last layer, the scale of a branch) that would hide a wrong cut.
    """
    draw, copied = generator(0, "verify"), copy.deepcopy(module).eval().requires_grad_(False)
    for name, value in (*copied.named_parameters(), *copied.named_buffers()):
        if name.endswith("running_var"):
            value.mul_(0.75 + 0.5 * torch.rand(value.shape, generator=draw).to(value))
        elif (isinstance(value, nn.Parameter) or name.endswith("running_mean")) and _is_constant(value):
            value.add_(0.1 * torch.randn(value.shape, generator=draw).to(value))
    return copied


def _is_constant(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return False
    flat = value.flatten()
    return bool(flat[0] == flat[-1]) and bool((flat == flat[0]).all())


def _difference(module: nn.Module, groups: tuple[ChannelGroup, ...], x_BCHW: Tensor, whole: Tensor) -> str | None:
    """Cut some channels and say how the result differs from zeroing them, or None.

    Of each group another part goes, between a quarter and three quarters: widths must not agree by chance.
    """
    kept = {}
    for group in groups:
        draw = generator(0, "verify", group.name)
        part, draw_C = 0.25 + 0.5 * float(torch.rand(1, generator=draw)), torch.rand(group.num_channels, generator=draw)
        num_removed = min(group.num_channels - 1, max(1, round(part * group.num_channels)))
        kept[group.name] = draw_C.argsort().argsort() >= num_removed
    try:
        with torch.no_grad():
            zeroed = masked(module, groups, kept)(x_BCHW)
            smaller = cut_in_place(_sharing(module), plan_from_kept(groups, kept))(x_BCHW)
    except Exception as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    if smaller.shape != whole.shape:
        return f"the output becomes {tuple(smaller.shape)}"
    gap, effect = (smaller - zeroed).abs().max(), (zeroed - whole).abs().max()
    if not effect:
        names = ", ".join(group.name for group in groups)
        warnings.warn(f"zeroing some of the channels of {names} changes no output: compare afterwards.", NotVerified, 4)
    is_equal = bool(gap <= 1e-3 * effect + 1e-5 * whole.abs().max())
    return None if is_equal else f"outputs differ by {float(gap):.2g}"


def _sharing(module: nn.Module) -> nn.Module:
    """Return a copy with the same parameters, not copies of them."""
    return copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


def leave_out(name: str, reason: str) -> None:
    """Warn that the channels that a layer makes stay whole."""
    warnings.warn(f"channels of {name} are never cut: {reason}.", NotPrunable, stacklevel=4)
