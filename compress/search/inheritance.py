"""From a candidate to a network: which channels stay, what it costs, and the weights it inherits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.model import Model
from compress.graph.cost_model import CostModel
from compress.graph.surgery import apply, plan_from_kept
from compress.graph.units import ChannelGroup, is_inside
from compress.search.spaces.space import Candidate, Space

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def kernel_norms(module: nn.Module, group: ChannelGroup, dropped: tuple[str, ...] = ()) -> Tensor:
    """Return the L2 norm of the kernels that make each channel of a group, float64 (C,).

    A channel that several layers add to (residual streams) has the norm of all of their kernels together.

    Args:
        module: The network.
        group: One of its groups.
        dropped: Blocks whose kernels do not count.
    """
    squares_C = torch.zeros(group.num_channels, dtype=torch.float64)
    for member in group.members:
        layer = module.get_submodule(member.path)
        if member.axis != "out" or is_inside(member.path, dropped):
            continue
        if isinstance(layer, _WEIGHTED):
            weight = layer.weight.detach()
        elif isinstance(layer, _TRANSPOSED):
            weight = layer.weight.detach().transpose(0, 1)
        else:
            continue
        squares_D = weight.double().flatten(1).square().sum(1).cpu()
        squares_C += squares_D[torch.tensor(member.index)].sum(1)
    return squares_C.sqrt()


class Inheritance:
    """A parent network as the source of every candidate's weights and costs.

    The channels that a candidate keeps are those with the largest kernel norm, so a wider candidate
    keeps everything that a narrower one keeps.
    """

    def __init__(self, parent: Model, space: Space) -> None:
        self.parent, self.space = parent, space
        self._costs = CostModel(parent.module, space.groups, parent.input.example(1))
        self._first_C = {group.name: torch.arange(group.num_channels) for group in space.groups}
        self._ranks: dict[tuple[str, ...], dict[str, Tensor]] = {}

    def kept(self, candidate: Candidate) -> dict[str, Tensor]:
        """Return the mask (C,) of every group."""
        if candidate.dropped not in self._ranks:
            self._ranks[candidate.dropped] = {
                group.name: _ranks(kernel_norms(self.parent.module, group, candidate.dropped))
                for group in self.space.groups
            }
        ranks = self._ranks[candidate.dropped]
        return {name: ranks[name] < count for name, count in candidate.widths.items()}

    def count(self, quantity: str, candidate: Candidate) -> float:
        """Return the "macs" or "params" of a candidate without building it; exact."""
        masks = {group.name: self._first_C[group.name] < candidate.widths[group.name] for group in self.space.groups}
        return self._costs.quantity(quantity)(masks, candidate.dropped)

    def plan(self, candidate: Candidate) -> dict[str, Any]:
        """Return the plan that cuts the parent down to a candidate."""
        return plan_from_kept(self.space.groups, self.kept(candidate), candidate.dropped)

    def build(self, candidate: Candidate, *, config: Mapping[str, Any] | None = None) -> Model:
        """Return a candidate with the parent's weights; its batch-norm statistics are still the parent's."""
        return apply(self.parent, self.plan(candidate), stage="search", config=config or {})


def _ranks(norm_C: Tensor) -> Tensor:
    """Return the place of every channel, 0 for the largest; of equal ones the first comes first."""
    order_C = norm_C.argsort(descending=True, stable=True)
    rank_C = torch.empty_like(order_C)
    rank_C[order_C] = torch.arange(len(order_C))
    return rank_C
