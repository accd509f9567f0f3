"""Cost, what is spent, and Budget, what may be spent. Units stand in the field names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self


class Infeasible(ValueError):
    """No choice fits the limit. Carries the smallest cost that can be reached."""

    def __init__(self, what: str, limit: float, smallest: float) -> None:
        self.what, self.limit, self.smallest = what, limit, smallest
        super().__init__(
            f"no model fits {what} <= {limit:,.6g}: the smallest reachable is {smallest:,.6g}. "
            f"Raise the limit to at least that, or let the stage remove more (min_kept_ratio, more groups or blocks)."
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one forward pass of a model costs. None means not measured.

    Attributes:
        params: Number of parameters.
        macs: Multiply-adds for one input (one multiply and one add together count 1).
        size_bytes: Size of the exported file.
        latency_ms: Median time of one batch, in `runtime` on `device` with `batch` inputs.
        peak_memory_bytes: Largest sum of live activations and weights for one input.
    """

    params: float | None = None
    macs: float | None = None
    size_bytes: float | None = None
    latency_ms: float | None = None
    peak_memory_bytes: float | None = None
    runtime: str = ""
    device: str = ""
    batch: int = 0

    def as_json(self) -> dict[str, Any]:
        """Only what was measured."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "", 0)}


QUANTITIES = ("params", "macs", "size_bytes", "latency_ms", "peak_memory_bytes")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper limits, each in the unit of its name. None means no limit.

    >>> Budget(macs=100).admits(Cost(macs=100))
    True
    """

    params: float | None = None
    macs: float | None = None
    size_bytes: float | None = None
    latency_ms: float | None = None
    peak_memory_bytes: float | None = None

    def __post_init__(self) -> None:
        for name in QUANTITIES:
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"budget {name}={limit!r}: a limit must be above 0.")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by quantity."""
        return {name: value for name in QUANTITIES if (value := getattr(self, name)) is not None}

    def admits(self, cost: Cost) -> bool:
        """Return whether `cost` stays within every limit.

        Raises:
            ValueError: A limited quantity was not measured.
        """
        for name, limit in self.limits.items():
            spent = getattr(cost, name)
            if spent is None:
                raise ValueError(f"{name} is limited to {limit:g} but was not measured: measure it, or drop the limit.")
            if spent > limit:
                return False
        return True

    @classmethod
    def relative(cls, **ratios: float) -> RelativeBudget:
        """Return a budget in parts of some model's cost: `Budget.relative(macs=0.5).of(cost)`."""
        return RelativeBudget(**ratios)


@dataclass(frozen=True, kw_only=True)
class RelativeBudget:
    """Upper limits as parts of a reference's cost, each in (0, 1]."""

    params: float | None = None
    macs: float | None = None
    size_bytes: float | None = None
    latency_ms: float | None = None
    peak_memory_bytes: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            ratio = getattr(self, item.name)
            if ratio is not None and not 0 < ratio <= 1:
                raise ValueError(f"budget {item.name}={ratio!r}: a part of the reference lies in (0, 1].")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `"macs=0.5,latency_ms=0.6"`.

        >>> RelativeBudget.parse("macs=0.5").macs
        0.5
        """
        from compress.core.registry import UnknownName

        ratios: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise ValueError(f"budget {part!r}: say of what, for example macs=0.5 or latency_ms=0.6.")
            if name not in QUANTITIES:
                raise UnknownName.among("budget quantity", name, QUANTITIES)
            try:
                ratios[name] = float(value)
            except ValueError as error:
                raise ValueError(f"budget {part!r}: write {name}=NUMBER, for example {name}=0.5.") from error
        if not ratios:
            raise ValueError("an empty budget limits nothing: write for example macs=0.5.")
        return cls(**ratios)

    def of(self, cost: Cost) -> Budget:
        """Return the absolute budget: the one place where "50 %" becomes a number."""
        limits = {}
        for item in fields(self):
            ratio = getattr(self, item.name)
            if ratio is None:
                continue
            reference = getattr(cost, item.name)
            if reference is None:
                raise ValueError(f"{item.name} of the reference was not measured, so {ratio:g} of it is unknown.")
            limits[item.name] = ratio * reference
        return Budget(**limits)
