"""Channels that hardly ever fire are worth little."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import Activity, GroupStats
from compress.prune.criteria.family import CRITERIA, neutral


@CRITERIA.register("activation_sparsity", paper="Hu 2016", needs=("activity",), idea="C6")
def activation_sparsity(group: GroupStats, *, strength: float = 0.0) -> Tensor:
    """Score a channel by how often it fires for the class for which it fires most.

    s_c = mean over readers of max_k P(x_c ≠ 0 | class k) · (a_c / mean a)^strength with a_c = max_k E[|x_c| | class k].

    Args:
        group: Activity of the channels as each layer reads them, behind norm and activation.
        strength: How much it counts how strongly a channel fires. Networks without ReLU have no zeros: use 1.

    Returns:
        scores_C >= 0; in [0, 1] for strength 0. 1 for all, and a warning, where no value is ever 0 and strength is 0.

    Differs from the paper: the class for which a channel fires most instead of all inputs together, so that channels
    that serve a rare class stay.

    Cost: one forward pass.

    Reference: Hu et al., "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep
    Architectures", 2016, equation 1.

    >>> half = torch.tensor([0.5, 0.5])
    >>> activity = Activity("b", half, half, torch.tensor([0.25, 1.0]), torch.tensor([3.0, 1.0]))
    >>> stats = GroupStats("a", 2, {"activity": [activity]})
    >>> activation_sparsity(stats), activation_sparsity(stats, strength=1)
    (tensor([0.2500, 1.0000]), tensor([0.3750, 0.5000]))
    """
    if not group.activities:
        return neutral(group, "what reads them was never seen")
    if not strength and not any(bool((own.zeros_C > 0).any()) for own in group.activities):
        return neutral(group, "none of them is ever 0 where it is read; use strength=1")
    return torch.stack([_scores(own, strength) for own in group.activities]).mean(0)


def _scores(activity: Activity, strength: float) -> Tensor:
    """Return the scores (C,) as one layer sees the channels."""
    if not strength:
        return activity.firing_C
    mean = activity.peak_C.mean().clamp_min(torch.finfo(activity.peak_C.dtype).tiny)
    return activity.firing_C * (activity.peak_C / mean).pow(strength)
