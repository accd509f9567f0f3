"""The family of schedules, and the tools that a schedule is handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from compress.core.model import Model
from compress.core.registry import Family
from compress.graph.units import ChannelGroup
from compress.train.objectives.family import Penalty


@dataclass(frozen=True, eq=False)
class Choice:
    """What a cut would take away, without the cut.

    Attributes:
        groups: The network's groups.
        kept: Mask (C,) by group name, True = stays; groups without a mask stay whole.
        dropped: Paths of the blocks that would go.
        scores: Worth (C,) by group name, as the masks were chosen from it; of the blocks under the name BLOCKS. Empty
            where nobody scored.
    """

    groups: tuple[ChannelGroup, ...]
    kept: Mapping[str, Tensor]
    dropped: tuple[str, ...] = ()
    scores: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def keeps_all(self) -> bool:
        """Whether nothing would go."""
        return not self.dropped and all(bool(mask_C.all()) for mask_C in self.kept.values())

    def num_gone(self) -> int:
        """Return how many channels would go."""
        return sum(int((~mask_C).sum()) for mask_C in self.kept.values())

    def num_returned(self, earlier: Choice) -> int:
        """Return how many channels stay that would have gone by an earlier choice for the same network."""
        masks = {name: mask_C for name, mask_C in earlier.kept.items() if name in self.kept}
        return sum(int((self.kept[name] & ~mask_C).sum()) for name, mask_C in masks.items())


class Train(Protocol):
    """(model, share in (0, 1]) -> the model trained with this share of all fine-tuning, `penalty` added to its loss."""

    def __call__(self, model: Model, share: float, penalty: Penalty | None = None, /) -> Model:
        """Train; the model that comes back may be the one that was given."""
        ...


#: (model, depth in (0, 1]) -> model cut so far that its cost went this part of the way to the budget; 1 arrives.
PruneTo = Callable[[Model, float], Model]
#: (model, depth in (0, 1]) -> what `PruneTo` would take away now. Changes nothing; may be asked at any time.
Choose = Callable[[Model, float], Choice]

#: (model, prune_to, train, choose) -> model within the budget. The last cut has depth 1; the shares sum to 1.
SCHEDULES: Family[Callable[..., Model]] = Family("schedule", data=("model", "prune_to", "train", "choose"))
