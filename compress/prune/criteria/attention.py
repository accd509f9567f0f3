"""Channels that trained attention turns down are worth little."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune import gating  # noqa: F401  (trains the gates)
from compress.prune.criteria.family import CRITERIA, neutral


@CRITERIA.register("attention", paper="Yamamoto 2018", needs=("attention",), idea="C7", scores_blocks=True)
def attention(group: GroupStats) -> Tensor:
    """Score a channel by how far attention, trained for this with the network frozen, lets it through.

    s_c = E_x[σ(W₂ ReLU(W₁ x̄))_c], the mean over inputs of a squeeze-and-excite gate in front of everything that reads
    the channel, where x̄ are the channels' means over places. The gates of a group are pulled to a mean of 1/2; the
    loss decides which of its channels keep an open one. Afterwards they are gone, and the weights are as they were;
    from Python, `compress.prune.gating.folding` can multiply them into the weights instead, where they are constant.

    Args:
        group: Log-odds (C, N) of the mean gate over the inputs of each of N batches. For blocks the gate is a factor
            on what the block adds to its input.

    Returns:
        scores_C in (0, 1); 1 for all, and a warning, where no gate could be put.

    Differs from the paper: one gate for a channel that several layers read; a pull to a mean instead of none; the
    network keeps its weights and its batch statistics, so that a gate of 1 means "as it was" and gates of different
    layers compare. The mean over inputs hides channels that serve few of them, as in the paper.

    Cost: 5 forward and backward passes over the batches of the statistics, without gradients of weights, and one
    forward pass.

    Reference: Yamamoto and Maeno, "PCAS: Pruning Channels with Attention Statistics for Deep Network Compression",
    2018, section 3; the gate of Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, equation 3.

    Two batches: (σ(0) + σ(0)) / 2, and (σ(ln 3) + σ(-ln 3)) / 2 = (3/4 + 1/4) / 2:

    >>> from compress.graph.stats import Part
    >>> gates = Part("a", "in", False, torch.tensor([[0.0, 0.0], [1.0986, -1.0986]]))
    >>> attention(GroupStats("a", 2, {"attention": [gates]}))
    tensor([0.5000, 0.5000])
    """
    parts = group.parts("attention")
    if not parts:
        return neutral(group, "no gate can be put in front of what reads them")
    return torch.sigmoid(parts[0].values).mean(1)
