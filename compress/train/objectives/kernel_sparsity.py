"""Single weights of the kernels go to 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from compress.train.objectives.family import OBJECTIVES, total


@OBJECTIVES.register("kernel_sparsity", paper="Han 2015", needs=("groups",), idea="C6")
def kernel_sparsity(module: nn.Module, taps: Mapping[str, Any], *, weight: float = 1e-4) -> Tensor:
    """Shrink every weight of the kernels at one speed, so that kernels become sparse.

    R = weight · Σ_groups Σ |w| over the kernels that make the channels.

    Args:
        module: Not read; the weights come from the groups.
        taps: "groups": live weights of each group.
        weight: Factor of the term beside the loss. A weight falls by learning rate · weight a step, with momentum
            0.9 ten times as much.

    Returns:
        Scalar, at least 0; 0 for a network without groups.

    Differs from the paper: kernels whose channels are never cut (the classifier's) are left alone; what becomes small
    is not set to 0 here, the criterion of the same name counts it.

    Cost: one pass over the weights a step.

    Reference: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
    section 3.1.

    >>> import torch
    >>> from compress.train.objectives.family import LiveGroup
    >>> group = LiveGroup("a", (torch.tensor([[1.0, -2.0], [0.0, 0.5]]),))
    >>> float(kernel_sparsity(None, {"groups": (group,)}, weight=1.0))
    3.5
    """
    return weight * total([kernel_CK.abs().sum() for group in taps["groups"] for kernel_CK in group.kernels])
