"""The channels that are least now are pulled to 0, harder as training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.train.objectives.family import OBJECTIVES, LiveGroup, total


@OBJECTIVES.register("growing_penalty", paper="Wang 2021", needs=("groups", "progress"), idea="C9")
def growing_penalty(
    module: nn.Module, taps: Mapping[str, Any], *, weight: float = 1.0, pulled_ratio: float = 0.5
) -> Tensor:
    """Pull the least channels of each group to 0 with a force that grows with the training.

    R = weight · progress · ½ Σ_groups Σ_{c in least} ‖v_c‖² for the weights v_c of channel c: its kernels and the
    scales of its norms. `least` are the ⌊pulled_ratio · C⌋ channels with the smallest ‖v_c‖ at this step; a channel
    that the loss needs grows out of them while the force is still weak.

    Args:
        module: Not read; the weights come from the groups.
        taps: "groups": live weights of each group; "progress": part of the training that is over, in [0, 1].
        weight: Force at the end. Each step takes the part learning rate · weight · progress from what is pulled,
            with momentum 0.9 ten times as much.
        pulled_ratio: Part of each group that is pulled, in [0, 1].

    Returns:
        Scalar, at least 0; 0 at the start and for a network without groups.

    Differs from the paper: the least channels are found anew at each step instead of once at the start; the force
    grows evenly with the training instead of by a fixed amount every few steps; norm scales are pulled too. This is
    the first of the paper's two methods (GReg-1).

    Cost: one pass over the weights and one sorting of the channels a step.

    Reference: Wang et al., "Neural Pruning via Growing Regularization", ICLR 2021, algorithm 1.

    Lengths 5 and 1, half of them pulled, half-way: ½ · ½ · 1².

    >>> from compress.train.objectives.family import LiveGroup
    >>> group = LiveGroup("a", (torch.tensor([[3.0, 4.0], [0.0, 1.0]]),))
    >>> float(growing_penalty(None, {"groups": (group,), "progress": 0.5}))
    0.25
    """
    if not 0 <= pulled_ratio <= 1:
        raise ValueError(f"pulled_ratio={pulled_ratio!r}: the part of each group that is pulled lies in [0, 1].")
    terms = [_least(group, pulled_ratio) for group in taps["groups"]]
    return weight * float(taps["progress"]) * 0.5 * total(terms)


def _least(group: LiveGroup, ratio: float) -> Tensor:
    squares_C = group.rows().square().sum(1)
    count = int(ratio * group.num_channels + 1e-9)
    return squares_C[torch.argsort(squares_C.detach(), stable=True)[:count]].sum()
