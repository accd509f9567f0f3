"""What goes is carried on by what stays: statistics gathered once, folded into copies of one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from compress.core.model import Model
from compress.core.registry import Piece
from compress.core.task import Task
from compress.graph.absorption import absorb
from compress.graph.parts import Moments
from compress.graph.stats import gather
from compress.graph.units import ChannelGroup
from compress.prune.settings import is_active


class Compensator:
    """Prepares one network for many cuts; each call is about one of them.

    Attributes:
        model: The network.
        groups: Its groups.
        task: Where training inputs come from.
        settings: What a prepared network depends on beside the network and the cut; empty if nothing takes over.
    """

    def __init__(
        self,
        model: Model,
        groups: tuple[ChannelGroup, ...],
        task: Task,
        compensation: Piece[Any],
        *,
        num_batches: int,
        batch_size: int,
        seed: int,
    ) -> None:
        """Gather nothing yet.

        Args:
            model: Stays as it is.
            groups: Its groups.
            task: Where training inputs come from.
            compensation: Of COMPENSATIONS.
            num_batches: Training batches for the statistics.
            batch_size: Inputs of one such batch.
            seed: Which training inputs.
        """
        self.model, self.groups, self.task, self._compensation = model, groups, task, compensation
        self._sizes = {"num_batches": num_batches, "batch_size": batch_size, "seed": seed}
        self._is_active = is_active(compensation)
        self.settings = {"compensation": repr(compensation), "score_batches": num_batches} if self._is_active else {}

    def __call__(self, kept: Mapping[str, Tensor]) -> nn.Module:
        """Return the network whose layers expect only the channels that masks (C,) by group keep; the cut comes next.

        A copy, or the network itself if nothing takes over.
        """
        if not self._is_active:
            return self.model.module
        return absorb(self.model.module, self.groups, kept, self._moments, self._compensation)

    @cached_property
    def _moments(self) -> dict[str, Sequence[Moments]]:
        stats = gather(self.model.module, self.groups, ("moment",), self.task, **self._sizes)
        return {name: own.moments for name, own in stats.items()}
