"""What a network costs when every channel and block is there with some probability: differentiable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compress.graph.cost_model import CostModel
from compress.graph.units import Block, ChannelGroup, is_inside


class ExpectedCost:
    """One quantity of a cost model as a function of probabilities.

    A term of the cost model is per_pair · out · in for two numbers of channels. Here both are expected numbers, and a
    term inside a block counts with the block's probability: per_pair · E[out] · E[in] · P. That is exact when every
    probability is 0 or 1; in between it leaves out the covariance of a layer that reads and makes the same group.

    Args:
        model: The exact model.
        quantity: "macs" or "params".
        groups: The groups that the model was made for.
        blocks: Blocks that may be left out; none lies inside another.
        device: Where the probabilities will be.
    """

    def __init__(
        self,
        model: CostModel,
        quantity: str,
        groups: tuple[ChannelGroup, ...],
        blocks: Sequence[Block],
        device: torch.device,
    ) -> None:
        paths, per_pair, out, in_, size, loss = model.bilinear(quantity)
        self._groups, self._blocks = groups, blocks
        self._per_pair_T = torch.as_tensor(per_pair, dtype=torch.float64, device=device)
        self._out_T, self._in_T = (torch.as_tensor(slots, device=device) for slots in (out, in_))
        self._size_S = torch.as_tensor(size, device=device)
        self._loss_SG = torch.as_tensor(loss, device=device)
        around = [next((b for b, block in enumerate(blocks) if is_inside(p, [block.name])), len(blocks)) for p in paths]
        self._block_T = torch.tensor(around, dtype=torch.long, device=device)

    def __call__(self, present: Mapping[str, Tensor]) -> Tensor:
        """Return the expected cost, a scalar in double precision.

        Args:
            present: Probabilities (C,) by name of the group, (1,) by path of the block; others are there for sure.
        """
        one = self._size_S.new_ones(1)
        left_S = self._size_S
        for g, group in enumerate(self._groups):
            if group.name in present:
                left_S = left_S - self._loss_SG[:, g] * (1 - present[group.name].double()).sum()
        blocks_B = torch.cat([*(present.get(block.name, one).double() for block in self._blocks), one])
        return (self._per_pair_T * left_S[self._out_T] * left_S[self._in_T] * blocks_B[self._block_T]).sum()
