"""The family of conversions, and what its pieces are given and give."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.registry import Family
from compress.graph.conversion import cheaper
from compress.graph.units import Axis


class NotConvertible(ValueError):
    """A conversion does not fit a layer; the message ends up in the report."""


@dataclass(frozen=True)
class Site:
    """A convolution and what a conversion may know of its surroundings.

    Attributes:
        layer: The convolution, without groups; not changed.
        scale_D: Factor that the batch norm behind it puts on each output; ones without one. Errors count times this.
        free_axes: Axes whose channels can be put into another order for nothing, because all that read and write
            them are renamed along. On the others an order costs a copy of the feature map.
        rows_DK: All that makes each output channel, of all layers that add to it, batch norm folded in, constant
            last; None where channels cannot be merged.
    """

    layer: nn.Conv2d
    scale_D: Tensor
    free_axes: frozenset[Axis] = frozenset()
    rows_DK: Tensor | None = None

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Site:
        """Return a convolution that stands alone."""
        weight = layer.weight.detach()
        parts = [weight.flatten(1)] + ([] if layer.bias is None else [layer.bias.detach()[:, None]])
        return cls(layer, torch.ones(len(weight), device=weight.device), rows_DK=torch.cat(parts, 1))

    @property
    def safe_scale_D(self) -> Tensor:
        """The size of `scale_D`, float64, without zeros, so that it can be divided by."""
        scale_D = self.scale_D.detach().double().abs()
        return scale_D.clamp_min(1e-6 * float(scale_D.max().clamp_min(1e-12)))

    @property
    def weighted(self) -> Tensor:
        """The weights (D, C, kh, kw), float64, each output times its scale."""
        return self.layer.weight.detach().double() * self.safe_scale_D[:, None, None, None]


@dataclass(frozen=True)
class Converted:
    """What a layer becomes.

    Attributes:
        target: As the plan has it; {"to": "same"} for a layer that stays.
        layer: The new layer, weights taken over from the old one.
        kept_energy: 1 - |W - W'|² / |W|² in [0, 1], weights times `scale_D`.
    """

    target: Mapping[str, Any]
    layer: nn.Module
    kept_energy: float

    @property
    def is_change(self) -> bool:
        """Whether the layer becomes another one."""
        return self.target["to"] != "same"


@dataclass(frozen=True)
class Merged:
    """Which output channels another one can speak for.

    Attributes:
        twins: (removed, kept, factor): channel `removed` is `factor` > 0 times channel `kept`.
        kept_energy: 1 - |rows - factor · rows of the kept|² / |rows|², in [0, 1].
    """

    twins: tuple[tuple[int, int, float], ...] = field(default=())
    kept_energy: float = 1.0

    @property
    def is_change(self) -> bool:
        """Whether there are any twins."""
        return bool(self.twins)


#: (site) -> Converted or Merged. Raises NotConvertible. Never changes the site's layer.
CONVERSIONS: Family[Callable[..., Converted | Merged]] = Family("conversion", data=("site",))


def same(site: Site) -> Converted:
    """Return the layer as it is."""
    return Converted({"to": "same"}, copy.deepcopy(site.layer), 1.0)


def made(site: Site, target: Mapping[str, Any]) -> nn.Module:
    """Return the layer that `target` makes of the site's, or raise NotConvertible."""
    try:
        return cheaper(site.layer, target)
    except ValueError as error:
        raise NotConvertible(str(error)) from error


def rank_for(squares_R: Tensor, energy: float) -> int:
    """Return how many of the squared singular values (descending) hold the part `energy` of their sum.

    >>> rank_for(torch.tensor([6.0, 3.0, 1.0]), 0.9)
    2
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy={energy!r}: the part that is kept lies in (0, 1]; 0.9 is usual.")
    held_R = squares_R.cumsum(0) / squares_R.sum().clamp_min(torch.finfo(squares_R.dtype).tiny)
    return min(len(squares_R), int((held_R < energy - 1e-9).sum()) + 1)


def kept_part(squares_R: Tensor, rank: int) -> float:
    """Return the part of the sum that the first `rank` values hold, in [0, 1]; 1 when all are 0."""
    total = float(squares_R.sum())
    return min(1.0, float(squares_R[:rank].sum()) / total) if total > 0 else 1.0
