"""The family of distillation losses, and what they read of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from compress.core.registry import Family


@dataclass(frozen=True)
class Taps:
    """What one network answered to one batch.

    Attributes:
        logits_BC: Its outputs.
        features: Its feature maps (B, D, H, W), from the largest to the smallest, for a loss whose card
            needs "features"; empty otherwise. The student's are brought to the teacher's shapes first.
    """

    logits_BC: Tensor
    features: tuple[Tensor, ...] = ()


#: (student Taps, teacher Taps, target_B) -> scalar, with the part of the true labels in it.
LOSSES: Family[Callable[..., Tensor]] = Family("loss", data=("student", "teacher", "target_B"))
