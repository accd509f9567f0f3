"""The family of criteria."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from compress.core.registry import Family
from compress.graph.stats import GroupStats

#: (group: GroupStats) -> scores_C, at least 0, higher = keep. `needs` names the statistics that are read; extra facts
#: on the card: is_chance, for scores that do not follow from the channels; scores_blocks, for criteria that score
#: whole blocks too, as the channels of the group BLOCKS.
CRITERIA: Family[Callable[..., Tensor]] = Family("criterion", data=("group",))


class NeutralScores(UserWarning):
    """Channels that a criterion cannot tell apart, and why."""


def neutral(group: GroupStats, reason: str) -> Tensor:
    """Return the score 1 for every channel, with a warning: what a criterion says that has nothing to look at."""
    warnings.warn(f"all channels of {group.name} score the same: {reason}.", NeutralScores, stacklevel=4)
    return torch.ones(group.num_channels)
