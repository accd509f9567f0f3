"""The study: propose, move onto the budget, evaluate, remember."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from compress.core.progress import track
from compress.search.spaces.space import Candidate, Space
from compress.search.strategies.family import EXCESS, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

#: Draws before a candidate that was tried already is accepted again.
MAX_DRAWS = 16


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate and what was found.

    Attributes:
        number: Place in the study, from 0.
        candidate: What was evaluated.
        value: Validation accuracy, 0..1.
        excess: By what part the tightest limit is overspent; 0 or less is feasible.
    """

    number: int
    candidate: Candidate
    value: float
    excess: float

    @property
    def is_feasible(self) -> bool:
        """Whether every limit is kept."""
        return self.excess <= 0


class Projecting:
    """Optuna sampler that moves what another sampler proposes onto the budget.

    The decisions that optuna records are those of the projected candidate, so that strategies breed from
    what was really evaluated. A candidate that was tried before is proposed anew, a few times.
    """

    def __init__(self, inner: Sampler, space: Space, project: Callable[[Candidate], Candidate]) -> None:
        self._inner, self._space, self._project = inner, space, project

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space, so that all decisions are seen at once."""
        return dict(self._space.distributions())

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the decisions of a candidate on the budget, new if possible."""
        if "fixed_params" in trial.system_attrs:
            return {}
        tried = {self._space.candidate_of(past.params).key for past in study.get_trials(deepcopy=False) if past.params}
        candidate = self._space.largest
        for _ in range(MAX_DRAWS):
            drawn = self._inner.sample_relative(study, trial, search_space)
            for name, distribution in search_space.items():
                if name not in drawn:
                    drawn[name] = self._inner.sample_independent(study, trial, name, distribution)
            candidate = self._project(self._space.candidate_of(drawn))
            if candidate.key not in tried:
                break
        return dict(self._space.decisions_of(candidate))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask the inner sampler; not reached, as all decisions are sampled together."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the inner sampler."""
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        """Tell the inner sampler."""
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Do nothing: trials run one by one."""


def run_study(
    space: Space,
    strategy: Callable[[Space], Sampler],
    *,
    project: Callable[[Candidate], Candidate],
    evaluate: Callable[[Candidate], float],
    excess: Callable[[Candidate], float],
    opening: Sequence[Candidate],
    num_trials: int,
) -> list[Trial]:
    """Return the trials of a search, in order. Deterministic for deterministic arguments.

    Args:
        space: What may vary.
        strategy: Piece of STRATEGIES.
        project: Moves a proposal onto the budget.
        evaluate: Validation accuracy of a candidate; called once a candidate, answers repeats from memory.
        excess: By what part a candidate overspends.
        opening: Candidates to try first.
        num_trials: How many trials, at least 1; repeats count.
    """
    import optuna

    if num_trials < 1:
        raise ValueError(f"num_trials={num_trials}: a search needs at least one.")
    sampler = cast("Any", Projecting(strategy(space), space, project))
    with quiet():
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for candidate in opening:
            study.enqueue_trial(dict(space.decisions_of(candidate)))
        trials: list[Trial] = []
        note = [""]
        for number in track(range(num_trials), total=num_trials, what="search", note=note):
            asked = study.ask(dict(space.distributions()))
            candidate = space.candidate_of(asked.params)
            found = Trial(number=number, candidate=candidate, value=evaluate(candidate), excess=excess(candidate))
            asked.set_constraint(EXCESS, found.excess)
            study.tell(asked, found.value)
            trials.append(found)
            note[0] = f"best {max((t.value for t in trials if t.is_feasible), default=float('nan')):.4f}"
    return trials


def best_of(trials: Sequence[Trial]) -> Trial:
    """Return the best trial: feasible first, then accurate, then early."""
    return min(trials, key=lambda trial: (max(0.0, trial.excess), -trial.value, trial.number))


def pareto_of(trials: Sequence[Trial], cost: Callable[[Candidate], float]) -> list[Trial]:
    """Return the trials that no other beats in both cost and accuracy, by rising cost.

    Args:
        trials: Trials of one study.
        cost: What a candidate costs.
    """
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (cost(trial.candidate), -trial.value, trial.number)):
        if not front or trial.value > front[-1].value:
            front.append(trial)
    return front


@contextmanager
def quiet() -> Iterator[None]:
    """Keep optuna's own messages off the terminal; progress is shown by `track`."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
