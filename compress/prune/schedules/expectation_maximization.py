"""Estimate which channels are redundant, pull them to 0 while training, estimate again; then cut."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.model import Model
from compress.graph.groups import find_blocks
from compress.graph.units import BLOCKS
from compress.prune.live_groups import LiveGroups
from compress.prune.schedules.family import SCHEDULES, Choice, Choose, PruneTo, Train
from compress.prune.schedules.zeroing import branch_ends
from compress.train.objectives.family import total


def redundancy(kept_C: Tensor, scores_C: Tensor | None, temperature: float) -> Tensor:
    """Return the probability of each channel to be redundant: σ((place - num_kept + ½) / (temperature · C)).

    Places count from 0 for the best of those that stay to C - 1 for the worst of those that go. Without scores, at
    temperature 0, and where all or none stay, it is 0 for what stays and 1 for what goes.

    >>> scores_C = torch.tensor([4.0, 1.0, 2.0, 3.0])
    >>> [round(r, 2) for r in redundancy(scores_C > 2, scores_C, 0.25).tolist()]
    [0.18, 0.82, 0.62, 0.38]
    """
    num_channels, num_kept = len(kept_C), int(kept_C.sum())
    if scores_C is None or not temperature or num_kept in (0, num_channels):
        return (~kept_C).float()
    by_score = torch.sort(scores_C, descending=True, stable=True).indices
    best_first = by_score[torch.sort((~kept_C[by_score]).int(), stable=True).indices]
    place_C = torch.empty(num_channels)
    place_C[best_first] = torch.arange(num_channels, dtype=torch.float32)
    return torch.sigmoid((place_C - num_kept + 0.5) / (temperature * num_channels))


class Pull:
    """The penalty of the maximization: ½ strength · Σ r_c ‖v_c‖² over channels and blocks.

    v_c are the kernels of channel c and the scales and biases of the norms that it passes; of a block the weights
    that decide what it adds.

    Args:
        module: The network; later calls may hand over others of its structure.
        choice: What would be cut.
        temperature: Of `redundancy`.
        strength: Force on a channel that is redundant for sure.
    """

    def __init__(self, module: nn.Module, choice: Choice, *, temperature: float, strength: float) -> None:
        self.strength = strength
        self.live = LiveGroups(module, choice.groups)
        scores = choice.scores
        self.redundant = {
            name: redundancy(mask_C.cpu(), scores[name].cpu() if name in scores else None, temperature)
            for name, mask_C in choice.kept.items()
        }
        self.ends: dict[str, tuple[str, ...]] = {}
        if choice.dropped:
            names = [block.name for block in find_blocks(module)]
            kept_N = torch.tensor([name not in choice.dropped for name in names])
            self.redundant[BLOCKS] = redundancy(kept_N, scores[BLOCKS].cpu() if BLOCKS in scores else None, temperature)
            self.ends = {name: branch_ends(module, choice.groups, name) for name in names}

    def __call__(self, module: nn.Module) -> Tensor:
        """Return the penalty for the weights that `module` has now."""
        terms = []
        for group in self.live.of(module):
            if group.name in self.redundant:
                squares_C = group.rows().square().sum(1)
                for shift_C in group.shifts:
                    squares_C = squares_C + shift_C.square()
                terms.append((self.redundant[group.name].to(squares_C) * squares_C).sum())
        for k, paths in enumerate(self.ends.values()):
            weights = [value for path in paths for value in module.get_submodule(path).parameters(recurse=False)]
            terms.append(float(self.redundant[BLOCKS][k]) * total([value.square().sum() for value in weights]))
        return 0.5 * self.strength * total(terms)

    def as_json(self) -> Mapping[str, Any]:
        """Return the strength and a digest of the probabilities."""
        digest = hashlib.sha256()
        for name, share_C in sorted(self.redundant.items()):
            digest.update(f"{name} {len(share_C)};".encode())
            digest.update(share_C.numpy().tobytes())
        return {"name": "pull", "strength": self.strength, "redundant": digest.hexdigest()}


@SCHEDULES.register("expectation_maximization", paper="Xu 2022", idea="D5")
def expectation_maximization(
    model: Model,
    prune_to: PruneTo,
    train: Train,
    choose: Choose,
    *,
    rounds: int = 3,
    strength: float = 1.0,
    temperature: float = 0.05,
    final_share: float = 0.5,
) -> Model:
    """Estimate how probably each channel is redundant, train while pulling it to 0 by that much, and again; then cut.

    Expectation: r_c = σ((place_c - num_kept + ½) / (T C / t)) in round t, for the place of channel c among the C of its
    group, best first, of which the budget keeps `num_kept`. Maximization: training on
    L + ½ strength · Σ_c r_c ‖v_c‖², which multiplies v_c by 1 - learning rate · strength · r_c a step. A channel that
    the loss holds up against the pull rises in the next round's ranking, the others fade before they are cut.

    Args:
        model: What is cut.
        prune_to: Cuts.
        train: Fine-tunes; each round gets the share (1 - final_share) / rounds.
        choose: Says what would go, by which scores.
        rounds: Number of expectations, at least 1.
        strength: Force on a channel that is redundant for sure. In a round whose learning rates sum up to S it shrinks
            to e^(-S · strength), with momentum 0.9 to e^(-10 S · strength). About 1.2 in the exponent leaves a third:
            with much more nothing can rise again in the next round, and above 1 / learning rate the training becomes
            unstable. The default suits 50 steps at a cosine rate from 0.01; long trainings want less.
        temperature: T, softness of the first round in parts of the group, at least 0; 0 makes every estimate 0 or 1.
            Large values pull at channels that stay.
        final_share: Share of the fine-tuning behind the cut, in (0, 1).

    Returns:
        The model within the budget.

    Differs from the paper: the estimate is "redundant or not", by any criterion's ranking and the budget, instead of
    the likelihood of clusters of feature maps; redundant channels are pulled to 0 instead of to their cluster's mean;
    the estimate hardens from round to round. Ranks instead of margins, because scores of most criteria are skewed.

    Cost: rounds + 1 scorings, one fine-tuning in rounds + 1 parts, of which `rounds` train the network at full size.

    Reference: Xu et al., "Filter Pruning via Expectation-Maximization", Neural Computing and Applications 2022; the
    hardening: Ueda and Nakano, "Deterministic Annealing EM Algorithm", Neural Networks 1998.

    >>> shares = []
    >>> _ = expectation_maximization("m", lambda m, depth: m, lambda m, share, penalty=None: shares.append(share) or m,
    ...                              lambda m, depth: Choice((), {}), rounds=2)
    >>> shares
    [0.25, 0.25, 0.5]
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds!r}: expectation maximization takes at least 1 round.")
    if strength < 0 or temperature < 0:
        raise ValueError(f"strength={strength!r}, temperature={temperature!r}: both must be 0 or more.")
    if not 0 < final_share < 1:
        raise ValueError(f"final_share={final_share!r}: the cut network and the one before need a part each: 0.5, say.")
    for t in range(1, rounds + 1):
        chosen = choose(model, 1.0)
        pull = None
        if not chosen.keeps_all:
            pull = Pull(model.module, chosen, temperature=temperature / t, strength=strength)
        model = train(model, (1 - final_share) / rounds, pull)
    return train(prune_to(model, 1.0), final_share)
