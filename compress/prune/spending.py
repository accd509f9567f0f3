"""From a budget to one number that an allocator can keep below a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from compress.core.budget import Budget, Cost, RelativeBudget
from compress.graph.cost_model import COUNTED, CostModel


def countable(budget: str) -> RelativeBudget:
    """Read a budget that pruning can keep: parts of macs and params.

    Raises:
        ValueError: For a quantity that does not follow from counting channels.
    """
    relative = RelativeBudget.parse(budget)
    for name in ("latency_ms", "peak_memory_bytes", "size_bytes"):
        if getattr(relative, name) is not None:
            raise ValueError(
                f"budget {budget!r}: pruning cannot be steered by {name} yet, only by {' and '.join(COUNTED)}. "
                f"Write for example macs=0.5; the stage `search` takes latency budgets."
            )
    return relative


def limits_at(depth: float, start: Cost, target: Budget) -> dict[str, float]:
    """Return the limits after going `depth` in (0, 1] of the way from `start` to `target`.

    >>> limits_at(0.5, Cost(macs=100, params=10), Budget(macs=60, params=20))
    {'params': 20, 'macs': 80.0}
    """
    limits = {}
    for name, limit in target.limits.items():
        spent = getattr(start, name)
        assert spent is not None
        limits[name] = limit if depth >= 1 or spent <= limit else spent + depth * (limit - spent)
    return limits


def spending(model: CostModel, limits: Mapping[str, float]) -> tuple[Callable[[Mapping[str, Tensor]], float], float]:
    """Return a cost function of masks and its limit, which together mean "within all limits".

    For one quantity they are the quantity itself and its limit; for several the largest part spent, and 1.
    """
    if len(limits) == 1:
        ((name, limit),) = limits.items()
        return model.quantity(name), limit
    quantities = {name: model.quantity(name) for name in limits}

    def part_spent(kept: Mapping[str, Tensor]) -> float:
        return max(quantity(kept) / limits[name] for name, quantity in quantities.items())

    part_spent.__name__ = "largest part of " + " and ".join(limits)
    return part_spent, 1.0
