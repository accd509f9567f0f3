"""Nothing is added to the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.train.objectives.family import OBJECTIVES


@OBJECTIVES.register("none", is_no_op=True)
def none(module: nn.Module, taps: Mapping[str, Any]) -> Tensor:
    """Add nothing to the loss.

    R = 0.

    Args:
        module: Not read.
        taps: Not read.

    Returns:
        Scalar 0.

    Differs from the paper: no paper.

    Cost: none.

    Reference: the baseline of every other objective.

    >>> float(none(nn.Linear(2, 1), {}))
    0.0
    """
    return torch.zeros(())
