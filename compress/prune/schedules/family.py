"""The family of schedules."""

from __future__ import annotations

from collections.abc import Callable

from compress.core.model import Model
from compress.core.registry import Family

#: (model, depth in (0, 1]) -> model cut so far that its cost went this part of the way to the budget; 1 arrives.
PruneTo = Callable[[Model, float], Model]
#: (model, share in (0, 1]) -> model trained with this share of all fine-tuning.
Train = Callable[[Model, float], Model]

#: (model, prune_to, train) -> model within the budget. The last cut has depth 1; the shares sum to 1.
SCHEDULES: Family[Callable[..., Model]] = Family("schedule", data=("model", "prune_to", "train"))
