"""Random search."""

from __future__ import annotations

from compress.core.random import derived_seed
from compress.search.spaces.space import Space
from compress.search.strategies.family import STRATEGIES, Sampler


@STRATEGIES.register("random", paper="Li 2019")
def random(space: Space, *, seed: int = 0) -> Sampler:
    """Draw every decision by lot.

    p(candidate) = product over decisions of 1 / number of choices

    Args:
        space: What may vary.
        seed: Of the draws.

    Returns:
        Optuna sampler.

    Differs from the paper: candidates inherit weights from one trained network, and are moved onto the budget.

    Cost: nothing beyond the trials.

    Reference: Li, Talwalkar, "Random search and reproducibility for neural architecture search", UAI 2019.

    >>> type(random(Space(groups=(), counts={}, blocks=("a",)))).__name__
    'RandomSampler'
    """
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=derived_seed(seed, "random") % 2**32)
