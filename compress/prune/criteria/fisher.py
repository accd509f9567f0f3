"""Channels whose removal hardly moves the loss of any input are worth little."""

from __future__ import annotations

from torch import Tensor

from compress.graph.stats import GroupStats
from compress.prune.criteria.family import CRITERIA, neutral


@CRITERIA.register("fisher", paper="Theis 2018", needs=("sample_gate",), idea="C9", scores_blocks=True)
def fisher(group: GroupStats) -> Tensor:
    """Score a channel by the second-order change of the loss when it is removed.

    s_c = 1 / (2N) Σ_n (∂L_n/∂g_c)² for a factor g_c on the channel in front of all its readers and the own loss L_n of
    each of N inputs: half the diagonal of the Fisher information, which near a minimum is the Hessian.

    Args:
        group: Gates (N, C), one row an input. For blocks the gate is a factor on what the block adds to its input.

    Returns:
        scores_C >= 0; 1 for all, and a warning, where nobody calls what reads the channels as a layer.

    Differs from the paper: channels that several layers share have one gate, as in Liu et al. 2021; not averaged over
    the steps of a fine-tuning; what a channel costs is left to the allocator.

    Cost: one forward and backward pass a batch.

    Reference: Theis et al., "Faster Gaze Prediction with Dense Networks and Fisher Pruning", 2018, section 2.2, the
    pruning signal of a feature map; Liu et al., "Group Fisher Pruning for Practical Network Compression", ICML 2021.

    Two inputs: (1² + 3²) / 4 = 2.5 and (0² + 2²) / 4 = 1:

    >>> import torch
    >>> from compress.graph.stats import Part
    >>> gates = Part("a", "in", False, torch.tensor([[1.0, 0.0], [-3.0, 2.0]]))
    >>> fisher(GroupStats("a", 2, {"sample_gate": [gates]}))
    tensor([2.5000, 1.0000])
    """
    if not group.sample_gate_parts:
        return neutral(group, "what reads them was never seen")
    return group.sample_gate_parts[0].values.square().mean(0) / 2
