"""From the groups of a network to the live weights that sparsity objectives act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.graph.places import Place
from compress.graph.units import ChannelGroup
from compress.train.objectives.family import LiveGroup


@dataclass(frozen=True)
class _Rows:
    """Where one parameter of a layer keeps what belongs to a group's channels."""

    path: str
    name: str
    dim: int
    positions: Tensor | None

    @classmethod
    def of(cls, place: Place) -> _Rows:
        """Return where the weight of `place` keeps them."""
        member = place.member
        is_all = member.index == tuple((c,) for c in range(member.size))
        name = place.weight_name.rpartition(".")[2]
        return cls(member.path, name, place.dim, None if is_all else torch.tensor(member.index))

    def kernel(self, module: nn.Module) -> Tensor:
        """Return the weight of the layer in `module` as (C, K), with gradients."""
        rows = getattr(module.get_submodule(self.path), self.name).movedim(self.dim, 0)
        rows = rows.unsqueeze(1) if self.positions is None else rows[self.positions.to(rows.device)]
        return rows.flatten(1)

    def scales(self, module: nn.Module) -> tuple[Tensor, ...]:
        """Return the weight of a norm as (C,) for each position that a channel owns."""
        return self.kernel(module).unbind(1)

    def shifts(self, module: nn.Module) -> tuple[Tensor, ...]:
        """Return the bias of a norm in the same way; nothing where it has none."""
        has_bias = self.name == "weight" and getattr(module.get_submodule(self.path), "bias", None) is not None
        return replace(self, name="bias").scales(module) if has_bias else ()


class LiveGroups:
    """Finds the layers that make each group's channels once, and hands over their weights at every step.

    Call it with (module, progress) for what `fit` takes as `taps`. The module must have the structure of the one that
    it was made for; its weights may be others.

    Args:
        module: The network.
        groups: Its groups. Those whose channels no layer with weights makes are left out.
    """

    def __init__(self, module: nn.Module, groups: tuple[ChannelGroup, ...]) -> None:
        self._kernels: dict[str, list[_Rows]] = {}
        self._norms: dict[str, list[_Rows]] = {}
        for group in groups:
            for place in (Place(module, group.name, member) for member in group.members):
                if place.weight is not None and not place.reads:
                    is_kernel = place.member.axis == "out" and place.weight.ndim > 1
                    kind = self._kernels if is_kernel or place.makes_channels else self._norms
                    kind.setdefault(group.name, []).append(_Rows.of(place))
        self.names = tuple(group.name for group in groups if group.name in self._kernels.keys() | self._norms.keys())

    def of(self, module: nn.Module) -> tuple[LiveGroup, ...]:
        """Return the weights of every group as `module` has them now."""
        return tuple(
            LiveGroup(
                name,
                tuple(rows.kernel(module) for rows in self._kernels.get(name, ())),
                tuple(c for rows in self._norms.get(name, ()) for c in rows.scales(module)),
                tuple(c for rows in self._norms.get(name, ()) for c in rows.shifts(module)),
            )
            for name in self.names
        )

    def __call__(self, module: nn.Module, progress: float) -> Mapping[str, Any]:
        """Return {"groups": the weights of every group}, whatever the progress."""
        return {"groups": self.of(module)}
