"""The student's feature maps matched to the teacher's, beside the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.distill.losses.family import LOSSES, Taps
from compress.distill.losses.logits import logits


@LOSSES.register("hint", paper="Romero 2015", needs=("features",))
def hint(
    student: Taps,
    teacher: Taps,
    target_B: Tensor,
    *,
    feature_weight: float = 1.0,
    temperature: float = 4.0,
    hard_weight: float = 0.1,
) -> Tensor:
    """Match the student's feature maps to the teacher's through trained 1x1 convolutions, and the outputs.

    L = L_logits + feature_weight · mean over maps and elements of ½ (r(v) - u)².

    Args:
        student: Outputs (B, C); feature maps r(v) already in the teacher's shapes.
        teacher: Outputs (B, C) and feature maps u (B, D, H, W), without gradient.
        target_B: True classes.
        feature_weight: Factor of the feature maps' part.
        temperature: Of the outputs' part, above 0.
        hard_weight: Part of the true labels in the outputs' part, in [0, 1].

    Returns:
        Scalar, at least 0.

    Differs from the paper: maps and outputs are matched together from the first step, not in two
    phases; every resolution gives one map, not a single middle layer; the square is averaged over
    elements, so that feature_weight does not depend on the shape; 1x1 regressors.
    Cost: one forward pass of the teacher a step, and a 1x1 convolution a map.
    Reference: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, equation 3.

    >>> logits_BC, target_B = torch.zeros(1, 2), torch.tensor([0])
    >>> s = Taps(logits_BC, (torch.full((1, 1, 2, 2), 3.0),))
    >>> t = Taps(logits_BC, (torch.full((1, 1, 2, 2), 1.0),))
    >>> float(hint(s, t, target_B, hard_weight=0.0))
    2.0
    """
    if not student.features or len(student.features) != len(teacher.features):
        raise ValueError("hint needs as many feature maps of the student as of the teacher, at least one.")
    pairs = zip(student.features, teacher.features, strict=True)
    parts = [0.5 * (mine - theirs).square().mean() for mine, theirs in pairs]
    outputs: Tensor = logits(student, teacher, target_B, temperature=temperature, hard_weight=hard_weight)
    return outputs + feature_weight * torch.stack(parts).mean()
