"""Channels whose gate learns to shut within a budget are worth little."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from compress.graph.stats import GroupStats
from compress.prune import gating  # noqa: F401  (trains the gates)
from compress.prune.criteria.family import CRITERIA, neutral


@CRITERIA.register("learned_gates", paper="Louizos 2018", needs=("hard_concrete",), idea="C8", scores_blocks=True)
def learned_gates(group: GroupStats) -> Tensor:
    """Score a channel by how surely a hard concrete gate, trained within the budget, stays open.

    s_c = -ln P(z_c = 0) = ln(1 + e^o_c) with the log-odds o_c = ln α_c - β ln(-γ / ζ) of z_c ≠ 0. Only α is trained,
    for the loss and for an expected cost that meets the budget (macs and params; half of the macs where neither is
    limited).

    Args:
        group: Log-odds (C, 1) of an open gate. For blocks the gate is a factor on what the block adds to its input.

    Returns:
        scores_C >= 0, above ln 2 where a gate is rather open than shut; 1 for all, and a warning, where no gate could
        be put. Scores of different groups compare as they are: use the normalizer "none".

    Differs from the paper: weights are frozen; one gate for a channel in front of all that read it; the budget is met
    by an augmented Lagrangian. The score is not P(z ≠ 0) but a function of it that never rounds two of them to one.

    Cost: 10 forward and backward passes over the batches of the statistics, without gradients of weights.

    Reference: Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018, equation 12.

    At o = 0 a gate is as often shut as open, at o = ln 3 it is shut once in four times: ln 2 and ln 4.

    >>> import torch
    >>> from compress.graph.stats import Part
    >>> gates = Part("a", "in", False, torch.tensor([[0.0], [1.0986]]))
    >>> learned_gates(GroupStats("a", 2, {"hard_concrete": [gates]}))
    tensor([0.6931, 1.3863])
    """
    parts = group.parts("hard_concrete")
    if not parts:
        return neutral(group, "no gate can be put in front of what reads them")
    return functional.softplus(parts[0].values).mean(1)
