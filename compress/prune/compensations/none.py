"""Nothing takes over from removed channels."""

from __future__ import annotations

from torch import Tensor

from compress.graph.absorption import Mix
from compress.graph.parts import Moments
from compress.prune.compensations.family import COMPENSATIONS


@COMPENSATIONS.register("none", is_no_op=True)
def none(moments: Moments, kept_C: Tensor) -> Mix:
    """Leave the kept channels as they are; a removed channel is simply missed.

    x_R ≈ 0.

    Args:
        moments: Only the number of channels and their type are used.
        kept_C: True for channels that stay.

    Returns:
        Mix with zeros alone.

    Differs from the paper: no paper.

    Cost: none.

    Reference: none.

    >>> import torch
    >>> none(Moments("b", 4, torch.tensor([1.0, 2.0]), torch.eye(2)), torch.tensor([True, False])).shift_R
    tensor([0.])
    """
    num_removed, num_kept = int((~kept_C).sum()), int(kept_C.sum())
    return Mix(moments.mean_C.new_zeros(num_removed, num_kept), moments.mean_C.new_zeros(num_removed))
