"""Each channel's weights shrink together, so that whole channels become small."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from compress.train.objectives.family import OBJECTIVES, total


@OBJECTIVES.register("group_lasso", paper="Wen 2016", needs=("groups",), idea="C9")
def group_lasso(module: nn.Module, taps: Mapping[str, Any], *, weight: float = 3e-4) -> Tensor:
    """Shrink all that makes a channel at one speed, so that weak channels reach 0 and strong ones stay.

    R = weight · Σ_groups √K · Σ_c ‖v_c‖₂ for the K weights v_c of channel c: its kernels in every layer that makes it
    and the scales of the norms that it passes. The slope towards a weight is weight · √K · v / ‖v_c‖, of the same
    length for small channels as for large ones.

    Args:
        module: Not read; the weights come from the groups.
        taps: "groups": live weights of each group.
        weight: Factor of the term beside the loss. A channel's length falls by learning rate · weight · √K a step, with
            momentum 0.9 ten times as much; runs of a few hundred steps need 0.001 or more.

    Returns:
        Scalar, at least 0; 0 for a network without groups.

    Differs from the paper: channels that must be cut together, in all layers, make one term instead of one a layer;
    the norm's scale counts as one of the weights, since behind a norm the size of a kernel alone means nothing; √K is
    that of the group lasso (Yuan and Lin 2006), which the paper leaves out.

    Cost: one pass over the weights a step.

    Reference: Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NeurIPS 2016, equation 2.

    Two channels of K = 4 weights, of lengths 5 and 0: √4 · 5.

    >>> import torch
    >>> from compress.train.objectives.family import LiveGroup
    >>> group = LiveGroup("a", (torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]),))
    >>> float(group_lasso(None, {"groups": (group,)}, weight=1.0))
    10.0
    """
    return weight * total([math.sqrt(group.rows().shape[1]) * group.norms().sum() for group in taps["groups"]])
