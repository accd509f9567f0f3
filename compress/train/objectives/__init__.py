"""Objectives: extra terms of the loss that read the network itself. Importing registers all of them."""

from compress.train.objectives import (
    activation_sparsity,
    batch_norm_slimming,
    group_lasso,
    growing_penalty,
    kernel_sparsity,
    kurtosis,
    none,
    polarization,
    sorted_channels,
)
from compress.train.objectives.family import OBJECTIVES, LiveGroup, Penalty

__all__ = [
    "OBJECTIVES",
    "LiveGroup",
    "Penalty",
    "activation_sparsity",
    "batch_norm_slimming",
    "group_lasso",
    "growing_penalty",
    "kernel_sparsity",
    "kurtosis",
    "none",
    "polarization",
    "sorted_channels",
]
