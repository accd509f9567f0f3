"""The family of strategies, and what all of them see of a finished trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from compress.core.registry import Family

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class Sampler(Protocol):
    """What optuna asks of a sampler: the methods of its `BaseSampler`, importable without optuna."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the decisions that `sample_relative` should take together."""
        ...

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return values for some or all of `search_space`."""
        ...

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value for one decision."""
        ...

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Be told that a trial begins."""
        ...

    def after_trial(self, study: Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        """Be told that a trial is over."""
        ...


#: (space) -> optuna sampler over `space.choices()`. The study maximises; a trial's constraint is its excess.
STRATEGIES: Family[Callable[..., Sampler]] = Family("strategy", data=("space",))

#: Name of the constraint of every trial: by what part the tightest limit is overspent, feasible at 0 or less.
EXCESS = "excess"


def rank(trial: FrozenTrial) -> tuple[float, float, int]:
    """Return a key that sorts trials from the best to the worst.

    Feasible ones come first, by falling value; infeasible ones follow, by rising violation. Of equal ones
    the earlier is better.
    """
    violation = max(0.0, trial.constraints.get(EXCESS, 0.0))
    value: Any = trial.value
    assert value is not None
    return violation, -value, trial.number
