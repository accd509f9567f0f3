"""Regularised evolution: the population forgets its oldest member, not its worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from compress.core.random import generator
from compress.search.spaces.space import Space
from compress.search.strategies.family import STRATEGIES, Sampler, rank

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class AgeingSampler:
    """Optuna sampler of regularised evolution.

    It has the methods of optuna's `BaseSampler`, but does not derive from it, so that this module can be
    imported without optuna.
    """

    def __init__(self, *, population: int, sample: int, seed: int) -> None:
        if not 1 <= sample <= population:
            raise ValueError(f"sample={sample} of population={population}: choose 1 <= sample <= population.")
        self._population, self._sample = population, sample
        self._draw = generator(seed, "regularised evolution")

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: the study hands over its whole space."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a mutated copy of the best of some random members, or nothing while the population fills."""
        from optuna.trial import TrialState

        alive = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))[-self._population :]
        if len(alive) < self._population or not search_space:
            return {}
        chosen = torch.randperm(len(alive), generator=self._draw)[: self._sample].tolist()
        parent = min((alive[k] for k in chosen), key=rank)
        child = {name: parent.params[name] for name in search_space}
        names = sorted(search_space)
        name = names[self._below(len(names))]
        choices = cast("CategoricalDistribution", search_space[name]).choices
        others = [choice for choice in choices if choice != child[name]]
        return {**child, name: others[self._below(len(others))]} if others else child

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random choice; the first members are made of these."""
        choices = cast("CategoricalDistribution", param_distribution).choices
        return choices[self._below(len(choices))]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Do nothing."""

    def after_trial(self, study: Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        """Do nothing: finished trials are read from the study."""

    def reseed_rng(self) -> None:
        """Do nothing: trials run one by one."""

    def _below(self, limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=self._draw))


@STRATEGIES.register("regularised_evolution", paper="Real 2019")
def regularised_evolution(space: Space, *, seed: int = 0, population: int = 16, sample: int = 6) -> Sampler:
    """Mutate the best of a few random members; the oldest member dies.

    parent = best of S members drawn from the P youngest; child = parent with one decision changed.

    Args:
        space: What may vary.
        seed: Of all draws.
        population: P, members alive; the first P candidates are proposals and random ones.
        sample: S, members that compete to be the parent, 1 <= S <= P.

    Returns:
        Optuna sampler.

    Differs from the paper: a candidate over the limit loses against any within it, and against any that is
    less over it; the child is then moved onto the budget, which may change further widths.

    Cost: nothing beyond the trials.

    Reference: Real et al., "Regularized evolution for image classifier architecture search", AAAI 2019, algorithm 1.

    >>> regularised_evolution(Space(groups=(), counts={}, blocks=("a",)), population=4, sample=5)
    Traceback (most recent call last):
        ...
    ValueError: sample=5 of population=4: choose 1 <= sample <= population.
    """
    return AgeingSampler(population=population, sample=sample, seed=seed)
