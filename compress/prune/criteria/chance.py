"""The baseline that every criterion must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.core.random import generator
from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA


@CRITERIA.register("random", paper="", idea="C9", is_chance=True, scores_blocks=True)
def random(group: GroupStats, *, seed: int = 0) -> Tensor:
    """Score channels by chance.

    s_c ~ U(0, 1), the same for the same seed and group.

    Args:
        group: Only its name and number of channels are used.
        seed: Another one gives other scores.

    Returns:
        scores_C in [0, 1).

    Differs from the paper: no paper.

    Cost: none.

    Reference: the baseline of Mittal et al., "Recovering from Random Pruning", WACV 2018.

    >>> len(random(GroupStats("a", 3, {})))
    3
    """
    return torch.rand(group.num_channels, generator=generator(seed, "criterion", "random", group.name))
