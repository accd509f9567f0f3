"""Ratios of the groups are bred: the fittest pass theirs on, crossed and mutated."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compress.core.random import generator
from compress.prune.allocators.exponents import Anchor, levels_of
from compress.prune.allocators.family import ALLOCATORS, CostOf, LossOf, Masks, raised, settled, widths_of

#: Part of a population that passes into the next unchanged, and of genes that mutate.
ELITE, MUTATED = 0.25, 0.2
#: Standard deviation of a mutation, and the ratios that one may reach.
STEP, LOWEST, HIGHEST = 0.15, 0.05, 0.95


@ALLOCATORS.register("genetic", paper="Lin 2020", idea="D2")
def genetic(  # noqa: PLR0913
    scores: Mapping[str, Tensor],
    cost: CostOf,
    limit: float,
    loss_of: LossOf,
    *,
    min_kept_ratio: float = 0.1,
    round_to: int = 1,
    anchor: float = 0.5,
    population: int = 12,
    generations: int = 6,
    seed: int = 0,
) -> Masks:
    """Breed the ratios of the groups for a small loss at one cost, then scale them with one coefficient.

    A chromosome has one ratio x_g in (0, 1) a group; group g keeps the part x_g^φ. Its fitness is minus the loss at
    the φ that spends `anchor`, so only the relation of the ratios counts, and they are scaled to a geometric mean of
    1/2. The best quarter lives on; the others are children of two parents, each the better of two drawn ones, that
    give each gene with equal chance; a fifth of the genes gets a step N(0, 0.15²). One of the first population has
    equal ratios. φ alone is then chosen for the limit.

    Args:
        scores: Worth of the channels (C,) by group; decides which of a group go, not how many.
        cost: From masks by group to a cost that grows with what is kept.
        limit: Largest cost allowed.
        loss_of: From masks by group to the loss after a trial cut.
        min_kept_ratio: Part of each group that always stays, in [0, 1]; one channel always does.
        round_to: Kept numbers are multiples of this, or the whole group; the nearest one is taken.
        anchor: Part of the whole cost at which ratios are bred, in (0, 1), whatever the limit is.
        population: Chromosomes alive at a time; at least 2.
        generations: Populations after the first.
        seed: Of all that is drawn.

    Returns:
        Masks (C,) by group, True = keep.

    Differs from the paper: a genetic algorithm instead of a bee colony; fitness after recalibrated batch norm and
    without training; chromosomes are moved onto the budget instead of being drawn until one fits.

    Cost: at most population + generations · (population - a quarter of it) trial cuts: 66 by default.

    Reference: Lin et al., "Channel Pruning via Automatic Structure Search", IJCAI 2020, algorithm 1.

    Channels of `a` are dear, those of `b` cost no loss at all:

    >>> scores = {"a": torch.arange(8.0), "b": torch.arange(8.0)}
    >>> kept = genetic(scores, lambda kept: sum(map(sum, kept.values())), 8, lambda kept: -int(kept["a"].sum()))
    >>> int(kept["a"].sum()), int(kept["b"].sum())
    (7, 1)
    """
    for name, value, least in (("population", population, 2), ("generations", generations, 0)):
        if value < least:
            raise ValueError(f"{name}={value!r}: must be {least} or more.")
    widths = widths_of(scores, min_kept_ratio=min_kept_ratio, round_to=round_to)
    if (masks := settled(scores, widths, cost, limit)) is not None:
        return masks
    place, names = Anchor(scores, widths, cost, part=anchor), list(scores)

    def exponents(ratio_G: Tensor) -> dict[str, float]:
        return dict(zip(names, (-ratio_G.log()).tolist(), strict=True))

    def judged(ratio_G: Tensor) -> tuple[float, Tensor]:
        loss = loss_of(place.masks(exponents(ratio_G)))
        return (math.inf if math.isnan(loss) else loss), ratio_G

    draw = generator(seed, "genetic")
    first = [torch.full((len(names),), 0.5, dtype=torch.float64)]
    first += [_random(len(names), draw) for _ in range(population - 1)]
    alive = sorted(map(judged, first), key=lambda pair: pair[0])
    num_elite = max(1, int(ELITE * population))
    for _ in range(generations):
        children = [judged(_child(alive, draw)) for _ in range(population - num_elite)]
        alive = sorted(alive[:num_elite] + children, key=lambda pair: pair[0])
    return raised(scores, widths, levels_of(widths, exponents(alive[0][1])), cost, limit)


def _random(num_genes: int, draw: torch.Generator) -> Tensor:
    return _scaled(LOWEST + (HIGHEST - LOWEST) * torch.rand(num_genes, generator=draw, dtype=torch.float64))


def _child(alive: list[tuple[float, Tensor]], draw: torch.Generator) -> Tensor:
    """Return the mutated cross of two parents; `alive` is sorted, so of two drawn ones the earlier is the better."""
    pairs = torch.randint(len(alive), (2, 2), generator=draw).amin(1).tolist()
    one_G, other_G = (alive[parent][1] for parent in pairs)
    child_G = torch.where(torch.rand(len(one_G), generator=draw) < 0.5, one_G, other_G)
    is_mutated_G = torch.rand(len(one_G), generator=draw) < max(MUTATED, 1 / len(one_G))
    step_G = STEP * torch.randn(len(one_G), generator=draw, dtype=torch.float64)
    return _scaled((child_G + is_mutated_G * step_G).clamp(LOWEST, HIGHEST))


def _scaled(ratio_G: Tensor) -> Tensor:
    """Return the ratios to a power, so that their geometric mean is 1/2.

    >>> _scaled(torch.tensor([0.25, 0.0625])).round(decimals=3)
    tensor([0.6300, 0.3970])
    """
    return ratio_G ** (math.log(0.5) / ratio_G.log().mean())
