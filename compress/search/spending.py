"""Spending: what candidates cost and how far that is from the limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compress.core.budget import Budget, Cost, Infeasible, RelativeBudget
from compress.core.journal import Journal
from compress.core.model import Model
from compress.graph.cost_model import COUNTED
from compress.measure.clock import Clock
from compress.measure.costs import cost_of
from compress.search.inheritance import Inheritance
from compress.search.spaces.space import Candidate

#: Quantities that need a built network, and the counted one that they roughly follow.
FOLLOWS = {"size_bytes": "params", "latency_ms": "macs"}


class Spending:
    """Costs of candidates under relative limits.

    Multiply-adds and parameters are counted exactly without building anything. Size and latency are
    measured on the built candidate and written into the journal; until then they are foreseen as
    proportional to parameters and multiply-adds.

    Attributes:
        limits: Largest part of the reference's cost, by quantity.
        budget: The same in absolute units; None for latency, which is judged by its paired ratio.
    """

    def __init__(
        self,
        inheritance: Inheritance,
        limits: RelativeBudget,
        reference: Cost,
        journal: Journal,
        clock: Clock | None = None,
    ) -> None:
        self._inheritance, self._reference, self._journal, self._clock = inheritance, reference, journal, clock
        names = (*COUNTED, *FOLLOWS)
        self.limits: dict[str, float] = {
            name: ratio for name in names if (ratio := getattr(limits, name, None)) is not None
        }
        if limits.peak_memory_bytes is not None or not self.limits:
            raise ValueError(f"search can limit {', '.join(names)}; for example macs=0.5. Got {limits}.")
        assert ("latency_ms" in self.limits) <= (clock is not None), "a latency limit needs a clock"
        self.budget: Budget = replace(limits, latency_ms=None).of(reference)

    @property
    def is_exact(self) -> bool:
        """Whether every limit is on something that can be counted without building a candidate."""
        return set(self.limits) <= set(COUNTED)

    def foreseen(self, candidate: Candidate, aim: float = 1.0) -> float:
        """Return the largest part of a limit that a candidate would spend, from counts alone.

        Args:
            candidate: What to count.
            aim: Scales the limits of what cannot be counted; learnt from measurements.
        """
        parts = []
        for name, ratio in self.limits.items():
            counted = FOLLOWS.get(name, name)
            limit = ratio * getattr(self._reference, counted) * (1.0 if name in COUNTED else aim)
            parts.append(self._inheritance.count(counted, candidate) / limit)
        return max(parts)

    def cost(self, candidate: Candidate) -> Cost:
        """Return what a candidate costs: counts, size, and latency when that is limited."""
        cost = Cost(**self._journal.get("cost", candidate.key, lambda: cost_of(self._build(candidate)).as_json()))
        if "latency_ms" not in self.limits:
            return cost
        timed = self._timed(candidate)
        latency_ms = timed["ratio"] * timed["reference_ms"]
        return replace(cost, latency_ms=latency_ms, **{key: timed[key] for key in ("runtime", "device", "batch")})

    def parts(self, candidate: Candidate) -> dict[str, float]:
        """Return the part of every limit that a candidate spends; above 1 is too much."""
        cost = self.cost(candidate)
        found = {name: getattr(cost, name) / limit for name, limit in self.budget.limits.items()}
        if "latency_ms" in self.limits:
            found["latency_ms"] = self._timed(candidate)["ratio"] / self.limits["latency_ms"]
        return found

    def excess(self, candidate: Candidate) -> float:
        """Return by what part the tightest limit is overspent; 0 or less is feasible."""
        return max(self.parts(candidate).values()) - 1

    def check_reachable(self, smallest: Candidate) -> None:
        """Raise Infeasible when even the smallest candidate spends too much."""
        cost = self.cost(smallest)
        for name, part in self.parts(smallest).items():
            if part > 1:
                reached: float = getattr(cost, name)
                raise Infeasible(name, reached / part, reached)

    def _build(self, candidate: Candidate) -> Model:
        return self._inheritance.build(candidate)

    def _timed(self, candidate: Candidate) -> dict[str, Any]:
        """Return the paired latency of a candidate, measured once."""
        clock = self._clock
        assert clock is not None
        found: dict[str, Any] = self._journal.get(
            "latency", candidate.key, lambda: clock.measure(self._build(candidate))
        )
        return found
