"""The teacher's feature maps at the end of each resolution, channel by channel, beside its outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.distill.losses.family import LOSSES, Taps
from compress.distill.losses.logits import logits


@LOSSES.register("stage_features", paper="Romero 2015", needs=("features",), has_same_channels=True)
def stage_features(
    student: Taps,
    teacher: Taps,
    target_B: Tensor,
    *,
    feature_weight: float = 1.0,
    temperature: float = 4.0,
    hard_weight: float = 0.1,
) -> Tensor:
    """Match feature maps channel by channel, for a student that was cut out of its teacher, and the outputs.

    L = L_logits + feature_weight · mean over maps of Σ (v - u)² / Σ u².

    Args:
        student: Outputs (B, C); feature maps v (B, D, H, W) with the teacher's channels.
        teacher: Outputs (B, C) and feature maps u (B, D, H, W), without gradient.
        target_B: True classes.
        feature_weight: Factor of the feature maps' part.
        temperature: Of the outputs' part, above 0.
        hard_weight: Part of the true labels in the outputs' part, in [0, 1].

    Returns:
        Scalar, at least 0.

    Differs from the paper: no regressor, because dropped blocks and inner widths leave the channels between
    stages as they were; the square is relative to the size of the map, so that resolutions count alike; all maps and
    the outputs together from the first step.
    Cost: one forward pass of the teacher a step.
    Reference: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, equation 3.

    Half as large everywhere: (1 - 2)² / 2² = 0.25:

    >>> same = torch.zeros(1, 2)
    >>> s, t = (Taps(same, (torch.full((1, 1, 2, 2), value),)) for value in (1.0, 2.0))
    >>> float(stage_features(s, t, torch.tensor([0]), hard_weight=0.0))
    0.25
    """
    if not student.features or len(student.features) != len(teacher.features):
        raise ValueError("stage_features needs as many feature maps of the student as of the teacher, at least one.")
    pairs = zip(student.features, teacher.features, strict=True)
    parts = [(mine - theirs).square().sum() / theirs.square().sum().clamp_min(1e-12) for mine, theirs in pairs]
    outputs: Tensor = logits(student, teacher, target_B, temperature=temperature, hard_weight=hard_weight)
    return outputs + feature_weight * torch.stack(parts).mean()
