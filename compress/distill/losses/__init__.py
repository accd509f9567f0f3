"""Losses between a student and a teacher. Importing registers all of them."""

from compress.distill.losses import hint, labels, logits, stage_features
from compress.distill.losses.family import LOSSES, Taps

__all__ = ["LOSSES", "Taps", "hint", "labels", "logits", "stage_features"]
