"""What can go without the next layer's input turning is worth little."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA, neutral


@CRITERIA.register("influence", paper="Men 2024", needs=("influence",), idea="A5", scores_blocks=True)
def influence(group: GroupStats) -> Tensor:
    """Score a channel, or a block, by how far what is read turns when it is gone.

    s_c = mean over readers and inputs of 1 - cos(x, x without c) = 1 - sqrt(1 - ‖x_c‖² / ‖x‖²); for a block
    1 - cos(out, in), since without the block its input is what is read.

    Args:
        group: Turns (C, 1) for each layer that reads the channels, or one part for all blocks.

    Returns:
        scores_C in [0, 1] for channels, in [0, 2] for blocks.

    Differs from the paper: it scores blocks (of transformers) alone.

    Cost: one forward pass.

    Reference: Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024,
    equation 1.

    >>> from compress.graph.stats import Part
    >>> turns = Part("b", "in", False, torch.tensor([[0.25], [0.5]]))
    >>> influence(GroupStats("a", 2, {"influence": [turns]}))
    tensor([0.2500, 0.5000])
    """
    if not group.influence_parts:
        return neutral(group, "what reads them was never seen")
    return torch.stack([part.values.mean(1) for part in group.influence_parts]).mean(0)
