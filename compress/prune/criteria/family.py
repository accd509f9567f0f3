"""The family of criteria."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from compress.core.registry import Family

#: (group: GroupStats) -> scores_C, at least 0, higher = keep. `needs` names the statistics that are read;
#: extra fact on the card: is_chance, for scores that do not follow from the channels.
CRITERIA: Family[Callable[..., Tensor]] = Family("criterion", data=("group",))
