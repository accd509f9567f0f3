"""The true labels alone: training without a teacher, as a member of the family."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from compress.distill.losses.family import LOSSES, Taps


@LOSSES.register("labels", has_teacher=False)
def labels(student: Taps, teacher: Taps, target_B: Tensor) -> Tensor:
    """Learn from the true labels and ask no teacher.

    L = CE(s, y).

    Args:
        student: Outputs (B, C).
        teacher: Not looked at.
        target_B: True classes.

    Returns:
        Scalar, at least 0.

    Differs from the paper: no paper; the baseline that every loss with a teacher must beat.
    Cost: none beside the student's pass.
    Reference: the cross entropy.

    >>> import torch
    >>> nothing = Taps(torch.zeros(1, 4))
    >>> round(float(labels(nothing, nothing, torch.tensor([2]))), 4)
    1.3863
    """
    return functional.cross_entropy(student.logits_BC, target_B)
