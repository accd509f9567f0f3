"""The student's softened outputs matched to the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compress.distill.losses.family import LOSSES, Taps


@LOSSES.register("logits", paper="Hinton 2015")
def logits(
    student: Taps, teacher: Taps, target_B: Tensor, *, temperature: float = 4.0, hard_weight: float = 0.1
) -> Tensor:
    """Match the student's softened outputs to the teacher's.

    L = hard_weight · CE(s, y) + (1 - hard_weight) · T² · KL(softmax(t / T) ‖ softmax(s / T)).

    Args:
        student: Outputs (B, C).
        teacher: Outputs (B, C), without gradient.
        target_B: True classes.
        temperature: T > 0; a larger one shows more of the small outputs.
        hard_weight: Part of the true labels, in [0, 1].

    Returns:
        Scalar, at least 0.

    Differs from the paper: no difference; T² keeps the gradients of both parts on one scale.
    Cost: one forward pass of the teacher a step.
    Reference: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 2.

    >>> s, t = Taps(torch.tensor([[0.0, 0.0]])), Taps(torch.tensor([[0.0, 3.0]]).log_softmax(1))
    >>> same = logits(t, t, torch.tensor([1]), hard_weight=0.0)
    >>> round(float(same), 6), bool(logits(s, t, torch.tensor([1]), hard_weight=0.0) > 0)
    (0.0, True)
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature!r}: must be above 0; 2 to 8 is usual.")
    if not 0 <= hard_weight <= 1:
        raise ValueError(f"hard_weight={hard_weight!r}: the part of the true labels lies in [0, 1].")
    student_BC = functional.log_softmax(student.logits_BC / temperature, dim=1)
    teacher_BC = functional.log_softmax(teacher.logits_BC / temperature, dim=1)
    soft = functional.kl_div(student_BC, teacher_BC, reduction="batchmean", log_target=True) * temperature**2
    hard = functional.cross_entropy(student.logits_BC, target_B)
    return torch.lerp(soft, hard, hard_weight)
