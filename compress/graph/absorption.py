"""What removed channels passed on, folded into the weights of the layers that read them, before the cut."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.graph.parts import Moments
from compress.graph.places import Place
from compress.graph.units import BLOCKS, ChannelGroup, kept_masks
from compress.train.folding import norm_after


@dataclass(frozen=True)
class Mix:
    """How removed channels are expressed by kept ones, as one layer reads them: x_R ≈ weights_RK x_K + shift_R.

    Attributes:
        weights_RK: One row a removed channel, one column a kept one, both in ascending order.
        shift_R: What is added.
    """

    weights_RK: Tensor
    shift_R: Tensor


#: (moments as one layer reads the channels, mask_C of those that stay) -> Mix.
Compensation = Callable[[Moments, Tensor], Mix]


def absorb(
    module: nn.Module,
    groups: tuple[ChannelGroup, ...],
    kept: Mapping[str, Tensor],
    moments: Mapping[str, Sequence[Moments]],
    compensation: Compensation,
) -> nn.Module:
    """Return a copy of `module` whose layers expect only the kept channels; the cut comes next.

    For a layer y = Σ_c W_c x_c + b with x_R ≈ A x_K + s, where R goes and K stays::

        W'_k = W_k + Σ_r A_rk W_r        b' = b + Σ_r W_r s_r

    with W_c the kernel's taps for channel c; where a channel has several positions (behind a flatten, in each group of
    a grouped convolution) each position takes over from its own. A layer without bias leaves its shift to the running
    mean of the batch norm that alone reads it (μ' = μ - shift); without one the shift is left out.

    The mix is exact wherever the approximation of x_R is, at a padded edge too. The shift is not exact at an edge that
    is padded with zeros, and of a transposed convolution it is the mean over the phases of its stride. Depthwise
    convolutions hand channels on and need nothing; layers without weights that read channels (a shortcut that pads)
    cannot take anything over.

    Args:
        module: The network; not changed.
        groups: Its groups.
        kept: Masks (C,) by group, as for the cut; that of the blocks is not looked at.
        moments: By group, those of each layer that reads it, of `module` as it is; layers without stay as they are.
        compensation: Expresses removed channels by kept ones.
    """
    copied, norms = copy.deepcopy(module), norm_after(module)
    masks = kept_masks(groups, {name: mask_C for name, mask_C in kept.items() if name != BLOCKS})
    for group in groups:
        mask_C = masks[group.name].cpu()
        for member in group.members:
            own = [one for one in moments.get(group.name, ()) if one.path == member.path]
            place = Place(copied, group.name, member)
            if own and place.reads and place.weight is not None and not mask_C.all():
                shift_D = _fold(place, mask_C, [compensation(one, mask_C) for one in own])
                norm = norms.get(member.path)
                _shift(place, None if norm is None else copied.get_submodule(norm), shift_D)
    return copied


def _fold(place: Place, mask_C: Tensor, mixes: Sequence[Mix]) -> Tensor:
    """Change a layer's weights in place, with one mix for each position or for all; return what outputs (D,) gain."""
    assert place.weight is not None
    kernels_QDST = _kernels(place)
    num_groups, num_outputs, num_inputs, _ = kernels_QDST.shape
    index_CM = torch.tensor(place.member.index, device=kernels_QDST.device)
    home_CM, local_CM = index_CM // num_inputs, index_CM % num_inputs
    if not bool((home_CM == home_CM[:1]).all()):
        return kernels_QDST.new_zeros(num_groups * num_outputs)
    weights_MRK = torch.stack([mix.weights_RK for mix in mixes]).to(kernels_QDST).expand(index_CM.shape[1], -1, -1)
    shift_MR = torch.stack([mix.shift_R for mix in mixes]).to(kernels_QDST).expand(index_CM.shape[1], -1)
    rows_CMDT = kernels_QDST[home_CM, :, local_CM]
    lost_RMDT = rows_CMDT[~mask_C]
    rows_CMDT[mask_C] += torch.einsum("rmdt,mrk->kmdt", lost_RMDT, weights_MRK)
    kernels_QDST[home_CM, :, local_CM] = rows_CMDT
    kernels = kernels_QDST.movedim(2, 1) if place.dim == 0 else kernels_QDST
    with torch.no_grad():
        place.weight.copy_(kernels.reshape(place.weight.shape))
    gains_MD = torch.einsum("rmdt,mr->md", lost_RMDT, shift_MR)
    gains_QD = kernels_QDST.new_zeros(num_groups, num_outputs).index_add_(0, home_CM[0], gains_MD)
    phases = math.prod(place.layer.stride) if getattr(place.layer, "transposed", False) else 1
    return gains_QD.flatten() / phases


def _kernels(place: Place) -> Tensor:
    """Return a copy, in double precision, of a layer's weights: Q groups, D outputs and S inputs of each, T taps."""
    assert place.weight is not None
    weight = place.weight.detach().double()
    weight_T = weight.unsqueeze(2) if weight.ndim == 2 else weight.flatten(2)
    grouped = weight_T.unflatten(0, (getattr(place.layer, "groups", 1), -1))
    return (grouped.movedim(2, 1) if place.dim == 0 else grouped).clone()


def _shift(place: Place, norm: Any, shift_D: Tensor) -> None:
    """Let a layer's outputs gain `shift_D`, in place, if there is a place for it."""
    bias = getattr(place.layer, place.bias_name, None)
    with torch.no_grad():
        if isinstance(bias, nn.Parameter):
            bias.add_(shift_D.to(bias))
        elif norm is not None:
            norm.running_mean -= shift_D.to(norm.running_mean)
