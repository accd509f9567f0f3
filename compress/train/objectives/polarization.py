"""The scales of a norm part into two heaps, at 0 and well above."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from compress.train.objectives.batch_norm_slimming import scales_of
from compress.train.objectives.family import OBJECTIVES, total


@OBJECTIVES.register("polarization", paper="Zhuang 2020", needs=("groups",), idea="C9")
def polarization(module: nn.Module, taps: Mapping[str, Any], *, weight: float = 1e-3, shrinkage: float = 1.2) -> Tensor:
    """Drive each norm's scales apart: those below their mean to 0, those above away from it.

    R = weight · Σ_norms Σ_c (shrinkage · |γ_c| - | |γ_c| - mean_c |γ_c| |). Per scale the slope is shrinkage + 1 below
    the mean and shrinkage - 1 above it, less what the mean itself moves.

    Args:
        module: Not read; the scales come from the groups.
        taps: "groups": live scales of each group's norms.
        weight: Factor of the term beside the loss.
        shrinkage: t of the paper, at least 0: 0 only drives apart, above 1 large scales shrink too, but slower.

    Returns:
        Scalar; below 0 where the scales lie further apart than `shrinkage` times their sum.

    Differs from the paper: the mean is that of one norm instead of all norms of the network, because the scales of
    different norms are not comparable; scales may be negative and count by their size.

    Cost: one pass over the scales a step.

    Reference: Zhuang et al., "Neuron-level Structured Pruning using Polarization Regularizer", NeurIPS 2020,
    definition of R_s in section 3.

    Scales 1 and 3, mean 2: 1.2 · 4 - (1 + 1).

    >>> import torch
    >>> from compress.train.objectives.family import LiveGroup
    >>> group = LiveGroup("a", (torch.zeros(2, 1),), (torch.tensor([1.0, -3.0]),))
    >>> round(float(polarization(None, {"groups": (group,)}, weight=1.0)), 4)
    2.8
    """
    if shrinkage < 0:
        raise ValueError(f"shrinkage={shrinkage!r}: must be 0 or more; 1.2 is usual.")
    terms = []
    for scale_C in scales_of(taps["groups"], "polarization"):
        size_C = scale_C.abs()
        terms.append(shrinkage * size_C.sum() - (size_C - size_C.mean()).abs().sum())
    return weight * total(terms)
