"""Criteria: what a channel is worth. Importing registers all of them."""

from compress.prune.criteria import (
    activation_sparsity,
    attention,
    batch_norm_scale,
    chance,
    feature_rank,
    feature_similarity,
    fisher,
    geometric_median,
    influence,
    kernel_angle,
    kernel_distance,
    kernel_sparsity,
    learned_gates,
    magnitude,
    mask_gradient,
    pairwise,
    taylor,
)
from compress.prune.criteria.family import CRITERIA

__all__ = [
    "CRITERIA",
    "activation_sparsity",
    "attention",
    "batch_norm_scale",
    "chance",
    "feature_rank",
    "feature_similarity",
    "fisher",
    "geometric_median",
    "influence",
    "kernel_angle",
    "kernel_distance",
    "kernel_sparsity",
    "learned_gates",
    "magnitude",
    "mask_gradient",
    "pairwise",
    "taylor",
]
