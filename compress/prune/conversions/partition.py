"""Inputs and outputs of a layer split into equal groups that keep as much of its energy as possible."""

from __future__ import annotations

import torch
from torch import Tensor

#: Rounds of assigning outputs to the inputs' groups and back; it settles in a few.
NUM_ROUNDS = 8


def balanced(gain_NG: Tensor) -> Tensor:
    """Assign N items to G groups of equal size so that the sum of gains is large.

    Those with most to lose choose first; then pairs swap places as long as the sum grows.

    Args:
        gain_NG: What each item is worth in each group; N is a multiple of G.

    Returns:
        label_N: The group of each item.

    >>> balanced(torch.tensor([[5.0, 4.0], [9.0, 0.0]]))
    tensor([1, 0])
    """
    num, groups = gain_NG.shape
    room = [num // groups] * groups
    label_N = torch.zeros(num, dtype=torch.long)
    best_N2 = gain_NG.topk(min(2, groups), 1).values
    for item in (best_N2[:, 0] - best_N2[:, -1]).argsort(descending=True, stable=True).tolist():
        choices = gain_NG[item].argsort(descending=True, stable=True).tolist()
        label_N[item] = next(group for group in choices if room[group])
        room[int(label_N[item])] -= 1
    return _swapped(gain_NG, label_N)


def _swapped(gain_NG: Tensor, label_N: Tensor) -> Tensor:
    """Return `label_N` after swaps of two items, as long as one raises the sum; the largest rises first.

    Swaps of different items do not disturb each other: what an item is worth depends on its own group alone.
    """
    num, groups = gain_NG.shape
    least = 1e-9 * float(gain_NG.abs().max().clamp_min(1e-30))
    for _ in range(10 * num):
        item_GM = label_N.argsort(stable=True).view(groups, -1)
        rise_NG = gain_NG - gain_NG.gather(1, label_N[:, None])
        best_GG, place_GG = rise_NG[item_GM].max(1)
        change_GG = (best_GG + best_GG.T).triu(1)
        value, pair = change_GG.flatten().topk(min(4 * num, groups * groups))
        pairs = pair[value > least]
        if not len(pairs):
            break
        mover_GG = item_GM.gather(1, place_GG)
        first, second = _disjoint(mover_GG.flatten()[pairs].tolist(), mover_GG.T.flatten()[pairs].tolist())
        label_N[first], label_N[second] = label_N[second], label_N[first]
    return label_N


def _disjoint(first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
    """Return both sides of the swaps, in their order, of which no item is in an earlier one."""
    taken: set[int] = set()
    pairs = []
    for pair in zip(first, second, strict=True):
        if not taken & set(pair):
            taken |= set(pair)
            pairs.append(pair)
    return [a for a, _ in pairs], [b for _, b in pairs]


def copartition(energy_DC: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Split outputs and inputs into `groups` equal groups so that much energy lies inside of them.

    Outputs are assigned to the groups of inputs, then inputs to those of outputs, and so on until nothing is gained;
    once from the groups as the channels stand, once from a spectral split (Dhillon, "Co-clustering documents and words
    using bipartite spectral graph partitioning", 2001), which finds groups that do not touch each other exactly.

    Args:
        energy_DC: Squared weights between each output and input; D and C are multiples of `groups`.
        groups: At least 1.

    Returns:
        label_D and label_C: The group of each output and input.
    """
    num_inputs = energy_DC.shape[1]
    starts_C = [consecutive(num_inputs, groups), _spectral(energy_DC, groups)]
    found = [_alternating(energy_DC, start_C, groups) for start_C in starts_C]
    return max(found, key=lambda labels: float(kept_energy(energy_DC, *labels)))


def consecutive(num: int, groups: int) -> Tensor:
    """Return the labels of channels that are grouped as they stand.

    >>> consecutive(4, 2)
    tensor([0, 0, 1, 1])
    """
    return torch.arange(num) // (num // groups)


def fitted(energy_DC: Tensor, label_C: Tensor, groups: int) -> Tensor:
    """Return labels for the outputs that suit the labels of the inputs."""
    return balanced(energy_DC @ torch.nn.functional.one_hot(label_C, groups).to(energy_DC))


def kept_energy(energy_DC: Tensor, label_D: Tensor, label_C: Tensor) -> Tensor:
    """Return the part of the energy inside the groups, in [0, 1]; 1 when there is none at all."""
    total = energy_DC.sum()
    return energy_DC[label_D[:, None] == label_C].sum() / total if total > 0 else torch.ones(())


def orders(label_D: Tensor, label_C: Tensor) -> tuple[list[int], list[int]]:
    """Return `in_order` and `out_order` of a plan from the labels, groups numbered by their first input.

    >>> orders(torch.tensor([1, 0]), torch.tensor([0, 1]))
    ([0, 1], [1, 0])
    """
    seen = list(dict.fromkeys(label_C.tolist()))
    number_C, number_D = ([seen.index(label) for label in labels.tolist()] for labels in (label_C, label_D))
    in_order = sorted(range(len(number_C)), key=number_C.__getitem__)
    at_output = sorted(range(len(number_D)), key=number_D.__getitem__)
    return in_order, sorted(range(len(at_output)), key=at_output.__getitem__)


def _alternating(energy_DC: Tensor, label_C: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    label_D, before = fitted(energy_DC, label_C, groups), -1.0
    for _ in range(NUM_ROUNDS):
        now = float(kept_energy(energy_DC, label_D, label_C))
        if now <= before + 1e-9:
            break
        before = now
        label_C = fitted(energy_DC.T, label_D, groups)
        label_D = fitted(energy_DC, label_C, groups)
    return label_D, label_C


def _spectral(energy_DC: Tensor, groups: int) -> Tensor:
    """Return labels of the inputs from the leading singular vectors of the normalized energies."""
    size_D, size_C = (energy_DC.sum(axis).clamp_min(1e-30 + 1e-9 * float(energy_DC.sum())) for axis in (1, 0))
    _, _, right_RC = torch.linalg.svd(energy_DC / (size_D[:, None] * size_C).sqrt(), full_matrices=False)
    place_CR = torch.nn.functional.normalize(right_RC[:groups].T / size_C.sqrt()[:, None], dim=1)
    centres = [0]
    while len(centres) < groups:
        nearness_C = (place_CR @ place_CR[centres].T).max(1).values
        nearness_C[centres] = torch.inf
        centres.append(int(nearness_C.argmin()))
    return balanced(place_CR @ place_CR[centres].T)
