"""Channels stand in order of size while they train, so that any threshold cuts a tail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.train.objectives.family import OBJECTIVES, LiveGroup, total


@OBJECTIVES.register("sorted_channels", needs=("groups",), is_ordering=True, idea="C2")
def sorted_channels(
    module: nn.Module, taps: Mapping[str, Any], *, weight: float = 0.1, fall: float = 0.5, ramp: float = 0.1
) -> Tensor:
    """Bring the channels of each group into descending order of size, the last ones near 0.

    R = weight · Σ_groups [ Σ_c max(0, n_{c+1} - n_c + fall / (C - 1))² + ramp · Σ_c c / (C - 1) · n_c² ] for channels
    c = 0 … C - 1 and the length n_c of a channel's weights (kernels and norm scales) over the mean length in its group.
    The first sum is 0 when each channel is shorter than the one before it by its share of `fall`: it sorts. The second
    lets each channel fade the faster, the later it stands: it empties the tail and keeps its order. A threshold on the
    lengths then keeps a prefix of each group, for every budget the beginning of the same order. The size of the group
    as a whole is free.

    Args:
        module: Not read; the weights come from the groups.
        taps: "groups": live weights of each group.
        weight: Factor of the term beside the loss.
        fall: How much shorter than the first the last channel shall at least be, in parts of the mean length.
        ramp: How fast the last channel fades beside the sorting, at least 0.

    Returns:
        Scalar, at least 0; 0 for a network without groups.

    Differs from the paper: no paper. The stage `prune` puts the channels into order of size once in front of this
    training (`is_ordering`), which changes nothing that the network computes; the order is then kept and steepened,
    so that what matters gathers in front.

    Cost: one pass over the weights a step.

    Reference: idea C2. Related: Rippel et al., "Learning Ordered Representations with Nested Dropout", ICML 2014.

    Lengths 1 and 3, over their mean 0.5 and 1.5: (1.5 - 0.5 + 0.5)² + 0.1 · 1.5² = 2.25 + 0.225.

    >>> from compress.train.objectives.family import LiveGroup
    >>> group = LiveGroup("a", (torch.tensor([[1.0], [3.0]]),))
    >>> round(float(sorted_channels(None, {"groups": (group,)}, weight=1.0)), 4)
    2.475
    """
    if fall < 0 or ramp < 0:
        raise ValueError(f"fall={fall!r}, ramp={ramp!r}: both must be 0 or more.")
    return weight * total([_disorder(group, fall, ramp) for group in taps["groups"]])


def _disorder(group: LiveGroup, fall: float, ramp: float) -> Tensor:
    norms_C = group.norms()
    n_C = norms_C / norms_C.mean().clamp_min(torch.finfo(norms_C.dtype).tiny)
    num_steps = max(1, group.num_channels - 1)
    place_C = torch.arange(group.num_channels, device=n_C.device, dtype=n_C.dtype) / num_steps
    too_high = (n_C[1:] - n_C[:-1] + fall / num_steps).clamp_min(0)
    return too_high.square().sum() + ramp * (place_C * n_C.square()).sum()
