"""From a budget to one number that an allocator can keep below a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from compress.core.budget import Budget, Cost, Infeasible, RelativeBudget
from compress.graph.cost_model import COUNTED, CostModel
from compress.graph.latency_model import LatencyModel
from compress.graph.units import BLOCKS, Block
from compress.prune.allocators.family import prepare

#: Quantities that are foreseen while allocating and measured on the network that was cut.
FORESEEN = ("latency_ms", "size_bytes")
#: Bytes of a parameter in an exported float file.
PARAMETER_BYTES = 4.0


def steerable(budget: str) -> RelativeBudget:
    """Read a budget that pruning can keep: parts of macs, params, size_bytes and latency_ms.

    Raises:
        ValueError: For a quantity that cannot be foreseen for a network that is not built.
    """
    relative = RelativeBudget.parse(budget)
    if relative.peak_memory_bytes is not None:
        raise ValueError(
            f"budget {budget!r}: pruning cannot be steered by peak_memory_bytes, only by "
            f"{', '.join((*COUNTED, *FORESEEN))}. Write for example macs=0.5 and measure the memory afterwards."
        )
    return relative


def split_masks(masks: Mapping[str, Tensor], blocks: Sequence[Block]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the masks of channels, and the paths of the blocks that the mask of BLOCKS does not keep."""
    kept = {name: mask_C for name, mask_C in masks.items() if name != BLOCKS}
    if BLOCKS not in masks:
        return kept, ()
    flags = masks[BLOCKS].tolist()
    return kept, tuple(block.name for block, stays in zip(blocks, flags, strict=True) if not stays)


class Quantified(Protocol):
    """What an amount can be asked of."""

    def quantity(self, name: str) -> Callable[[Mapping[str, Tensor]], float]:
        """Return the function from masks to the amount of one quantity of a `Cost`."""
        ...


class Amounts:
    """What a network would spend, as functions of masks in which blocks are channels of the group BLOCKS.

    Multiply-adds and parameters are exact; size follows the parameters, and latency is that of a table.
    """

    def __init__(self, counts: CostModel, blocks: Sequence[Block], latency: LatencyModel | None = None) -> None:
        self._counts, self._blocks, self._latency = counts, tuple(blocks), latency

    def quantity(self, name: str) -> Callable[[Mapping[str, Tensor]], float]:
        """Return the function from masks to the amount of one quantity of a `Cost`."""
        if name == "latency_ms":
            assert self._latency is not None, "a latency limit needs a table"
            return ForeseenLatency(self._latency, self._blocks)

        def amount(masks: Mapping[str, Tensor]) -> float:
            kept, dropped = split_masks(masks, self._blocks)
            if name == "size_bytes":
                return PARAMETER_BYTES * self._counts.params(kept, dropped)
            return float(self._counts.quantity(name)(kept, dropped))

        amount.__name__ = name
        return amount


class ForeseenLatency:
    """Latency in milliseconds as a function of masks; layers of masks that it is told of are timed in turns."""

    __name__ = "latency_ms"

    def __init__(self, latency: LatencyModel, blocks: Sequence[Block]) -> None:
        self._latency, self._blocks = latency, tuple(blocks)

    def __call__(self, masks: Mapping[str, Tensor]) -> float:
        """Return the latency of what masks keep."""
        return self._latency(*split_masks(masks, self._blocks))

    def prepare(self, choices: Sequence[Mapping[str, Tensor]]) -> None:
        """Time what the table does not know yet of several choices that will be asked for."""
        self._latency.prepare(split_masks(masks, self._blocks) for masks in choices)


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


class NothingFits(Infeasible):
    """No choice fits several limits at once.

    Its `what`, `limit` and `smallest` are of the quantity that the smallest choice overspends most; its message
    has all of them, each in its own unit.
    """

    def __init__(self, limits: Mapping[str, float], smallest: Mapping[str, float]) -> None:
        worst = max(limits, key=lambda name: smallest[name] / limits[name])
        super().__init__(worst, limits[worst], smallest[worst])
        wanted = " and ".join(f"{name} <= {limit:,.6g}" for name, limit in limits.items())
        reached = " and ".join(f"{name} = {smallest[name]:,.6g}" for name in limits)
        self.args = (
            f"no model fits {wanted}: the smallest reachable has {reached}. Raise the limit of "
            f"{' and '.join(name for name in limits if smallest[name] > limits[name])}, or let the stage remove more "
            f"(min_kept_ratio, more groups).",
        )


class LargestPart:
    """The largest part of a limit that masks spend, over several limits; 1 is the most that fits.

    >>> class Counts:
    ...     quantity = lambda self, name: lambda kept: {"macs": 90.0, "params": 8.0}[name]
    >>> LargestPart(Counts(), {"macs": 100, "params": 16})({})
    0.9
    """

    def __init__(self, model: Quantified, limits: Mapping[str, float]) -> None:
        self._limits = limits
        self._quantities = {name: model.quantity(name) for name in limits}

    def __call__(self, kept: Mapping[str, Tensor]) -> float:
        """Return the part for masks by group."""
        return max(quantity(kept) / self._limits[name] for name, quantity in self._quantities.items())

    def prepare(self, choices: Sequence[Mapping[str, Tensor]]) -> None:
        """Tell those quantities that prepare themselves which masks they will be asked for."""
        for quantity in self._quantities.values():
            prepare(quantity, choices)

    def refusal(self, kept: Mapping[str, Tensor]) -> NothingFits:
        """Return the error for masks that are the smallest choice and still do not fit."""
        return NothingFits(self._limits, {name: quantity(kept) for name, quantity in self._quantities.items()})


def spending(model: Quantified, limits: Mapping[str, float]) -> tuple[Callable[[Mapping[str, Tensor]], float], float]:
    """Return a cost function of masks and its limit, which together mean "within all limits".

    For one quantity they are the quantity itself and its limit; for several the largest part spent, and 1.
    """
    if len(limits) > 1:
        return LargestPart(model, limits), 1.0
    ((name, limit),) = limits.items()
    return model.quantity(name), limit
