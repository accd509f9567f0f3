"""Genetic search by Optuna's NSGA-II."""

from __future__ import annotations

from compress.core.random import derived_seed
from compress.search.spaces.space import Space
from compress.search.strategies.family import STRATEGIES, Sampler


@STRATEGIES.register("nsga2", paper="Deb 2002")
def nsga2(
    space: Space, *, seed: int = 0, population: int = 16, crossover_prob: float = 0.9, swapping_prob: float = 0.5
) -> Sampler:
    """Cross the better candidates of each generation and mutate a little.

    child = uniform crossover of two tournament winners; each decision is drawn anew with probability
    1 / number of decisions; the next generation are the best of parents and children, feasible ones first.

    Args:
        space: What may vary.
        seed: Of all draws.
        population: Candidates of a generation, at least 2.
        crossover_prob: Probability that a child has two parents.
        swapping_prob: Probability that a decision comes from the second parent.

    Returns:
        Optuna sampler.

    Differs from the paper: one objective, so non-dominated sorting is sorting by accuracy; constrained
    domination is the paper's.

    Cost: population squared for each generation, far below one trial.

    Reference: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEC 2002, section VI.

    >>> nsga2(Space(groups=(), counts={}, blocks=("a",)), population=4).population_size
    4
    """
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(
        population_size=population,
        crossover_prob=crossover_prob,
        swapping_prob=swapping_prob,
        seed=derived_seed(seed, "nsga2") % 2**32,
    )
