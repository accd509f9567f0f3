"""The scales of norms shrink evenly, so that channels which the loss does not hold up go to 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from compress.train.objectives.family import OBJECTIVES, LiveGroup, total


def scales_of(groups: Sequence[LiveGroup], objective: str) -> list[Tensor]:
    """Return the scales (C,) of all norms of all groups.

    Raises:
        ValueError: There are groups, but no norm: the objective would do nothing.
    """
    found = [scale_C for group in groups for scale_C in group.scales]
    if groups and not found:
        raise ValueError(
            f"objective {objective!r} acts on the scales of norms, and no channel of this network passes one: "
            f"use 'group_lasso'."
        )
    return found


@OBJECTIVES.register("batch_norm_slimming", paper="Liu 2017", needs=("groups",), idea="C9")
def batch_norm_slimming(module: nn.Module, taps: Mapping[str, Any], *, weight: float = 1e-3) -> Tensor:
    """Shrink the scale of each norm at one speed, so that channels which hardly matter are switched off.

    R = weight · Σ_norms Σ_c |γ_c|.

    Args:
        module: Not read; the scales come from the groups.
        taps: "groups": live scales of each group's norms.
        weight: Factor of the term beside the loss. A scale falls by learning rate · weight a step, with momentum 0.9
            ten times as much; runs of a few hundred steps need 0.01, the 160 epochs of the paper 0.0001.

    Returns:
        Scalar, at least 0; 0 for a network without groups.

    Differs from the paper: any norm with scales counts, not batch norm alone; norms whose channels are never cut are
    left alone. A channel with γ = 0 still passes on its constant β: cut with compensation.

    Cost: one pass over the scales a step.

    Reference: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, equation 1.

    >>> import torch
    >>> from compress.train.objectives.family import LiveGroup
    >>> group = LiveGroup("a", (torch.zeros(2, 1),), (torch.tensor([1.0, -2.0]),))
    >>> float(batch_norm_slimming(None, {"groups": (group,)}, weight=1.0))
    3.0
    """
    return weight * total([scale_C.abs().sum() for scale_C in scales_of(taps["groups"], "batch_norm_slimming")])
