"""Stage search: propose widths and blocks, score each candidate with inherited weights, keep the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from compress.core.budget import RelativeBudget
from compress.core.journal import Journal
from compress.core.model import Model
from compress.core.registry import Piece
from compress.core.stage import STAGES, StageCall, StageConfig, StageResult, identity, piece_field
from compress.measure.clock import Clock
from compress.measure.costs import cost_of
from compress.measure.runtimes import RUNTIMES
from compress.search.inheritance import Inheritance
from compress.search.projection import Projection
from compress.search.proposals import opening
from compress.search.sharing import Assessment, Board, run_shared_study
from compress.search.spaces import cuts  # noqa: F401  (registers the spaces)
from compress.search.spaces.space import SPACES, Candidate
from compress.search.spending import Spending
from compress.search.strategies import evolution, genetic, sampling  # noqa: F401  (register the strategies)
from compress.search.strategies.family import STRATEGIES
from compress.search.study import Trial, best_of, pareto_of, run_study
from compress.train.recalibrate import recalibrate_batch_norm
from compress.train.scoring import accuracy

JOURNAL = "trials.jsonl"


@dataclass(frozen=True, kw_only=True)
class SearchConfig(StageConfig):
    """What may vary, what it may cost and how it is looked for.

    Attributes:
        space: What may vary.
        strategy: How the next candidate is chosen; it has its own seed.
        budget: Largest cost in parts of the reference's: macs, params, size_bytes, latency_ms.
        num_trials: Candidates to evaluate.
        runtime: Where latency is measured, when that is limited.
        latency_batch: Inputs of one timed call.
        latency_rounds: Samples of each candidate and of the reference.
        validation_limit: Validation inputs that score a candidate; 0 for all.
        recalibration_batches: Training batches that renew a candidate's batch-norm statistics.
        batch_size: Inputs of one such batch.
        seed: Which training inputs these are.
        shared: Work on one study with all who make this call; the database is named by SECATEUR_SEARCH_STORAGE. Which
            candidates are tried then depends on the workers' speed, so this is another call than the same unshared.
    """

    space: Piece[Any] = piece_field(SPACES, "widths_and_blocks")
    strategy: Piece[Any] = piece_field(STRATEGIES, "regularised_evolution")
    budget: str = "macs=0.5"
    num_trials: int = 64
    runtime: Piece[Any] = piece_field(RUNTIMES, "torch")
    latency_batch: int = 32
    latency_rounds: int = 20
    validation_limit: int = 0
    recalibration_batches: int = 8
    batch_size: int = 64
    seed: int = 0
    shared: bool = False

    @property
    def is_joint(self) -> bool:
        """Whether others work on the same study."""
        return self.shared

    def __post_init__(self) -> None:
        super().__post_init__()
        RelativeBudget.parse(self.budget)
        for name, least in (
            ("num_trials", 1),
            ("latency_batch", 1),
            ("latency_rounds", 1),
            ("validation_limit", 0),
            ("recalibration_batches", 1),
            ("batch_size", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be {least} or more.")


@STAGES.register("search", config=SearchConfig, roles=("model",), optional_roles=("reference",))
def search(call: StageCall) -> StageResult:
    """Look for the widths and blocks that keep most accuracy within a budget.

    A candidate inherits the parent's weights, its batch-norm statistics are measured anew, and its
    validation accuracy is its score. Weights are not trained here; distilling comes next.

    Args:
        call: Role "model" is cut; role "reference", or else the model itself, is what the budget refers to.
    """
    with ExitStack() as stack:
        look = _Search.open(stack, call)
        if look.spending.excess(look.space.largest) <= 0:
            return look.unchanged()
        look.spending.check_reachable(look.space.smallest)
        trials = look.run()
        return look.result(trials)


class _Search:
    """The parts of one search, put together from its configuration."""

    def __init__(self, call: StageCall, clock: Clock | None) -> None:
        self.call, self.config, self.parent = call, call.config, call.model()
        self.space = self.config.space(self.parent.module, self.parent.input.example(2))
        self.journal = Journal(call.scratch / JOURNAL)
        self.inheritance = Inheritance(self.parent, self.space)
        reference = call.model("reference") if "reference" in call.parents else self.parent
        limits = RelativeBudget.parse(self.config.budget)
        self.spending = Spending(self.inheritance, limits, cost_of(reference), self.journal, clock)

    @classmethod
    def open(cls, stack: ExitStack, call: StageCall) -> _Search:
        """Return the search; a clock is opened only when latency is limited."""
        config = call.config
        if RelativeBudget.parse(config.budget).latency_ms is None:
            return cls(call, None)
        reference = call.parents.get("reference", call.parents["model"])
        clock = Clock.against(reference, config.runtime, batch=config.latency_batch, rounds=config.latency_rounds)
        return cls(call, stack.enter_context(clock))

    def run(self) -> list[Trial]:
        """Return all trials; where none is feasible the smallest candidate is added."""
        project = Projection(self.space, self.spending)
        first = opening(self.space, project, lambda candidate: self.spending.foreseen(candidate) <= 1)
        trials = self.shared(project, first) if self.config.shared else self.alone(project, first)
        if not best_of(trials).is_feasible:
            last = self.space.smallest
            excess = self.spending.excess(last)
            trials.append(Trial(number=len(trials), candidate=last, value=self.evaluate(last), excess=excess))
        return trials

    def alone(self, project: Projection, first: Sequence[Candidate]) -> list[Trial]:
        """Return the trials of a search in this process."""
        return run_study(
            self.space,
            self.config.strategy,
            project=project,
            evaluate=self.evaluate,
            excess=self.spending.excess,
            opening=first,
            num_trials=self.config.num_trials,
        )

    def shared(self, project: Projection, first: Sequence[Candidate]) -> list[Trial]:
        """Return the trials of a search by all workers; what others measured is taken into the journal."""

        def assess(candidate: Candidate) -> Assessment:
            value, excess = self.evaluate(candidate), self.spending.excess(candidate)
            return Assessment(value=value, excess=excess, findings=self.journal.about(candidate.key))

        def learn(candidate: Candidate, findings: Mapping[str, Any]) -> None:
            for what, value in findings.items():
                self.journal.learn(what, candidate.key, value)

        refs = {role: entry.ref for role, entry in self.call.parents.items()}
        name, _ = identity("search", self.config, refs, self.call.task)
        return run_shared_study(
            self.space,
            self.config.strategy,
            project=project,
            assess=assess,
            learn=learn,
            opening=first,
            num_trials=self.config.num_trials,
            board=Board.from_environment(name),
        )

    def build(self, candidate: Candidate) -> Model:
        """Return a candidate with inherited weights and renewed batch-norm statistics."""
        model = self.inheritance.build(candidate, config=self.config.as_json())
        recalibrate_batch_norm(
            model.module,
            self.call.task,
            num_batches=self.config.recalibration_batches,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
        )
        return model

    def evaluate(self, candidate: Candidate) -> float:
        """Return the validation accuracy of a candidate, from the journal when it was found before."""
        limit = self.config.validation_limit or None

        def score() -> float:
            return accuracy(self.build(candidate).module, self.call.task, "validation", limit=limit)

        found: float = self.journal.get("accuracy", candidate.key, score)
        return found

    def result(self, trials: Sequence[Trial]) -> StageResult:
        """Return the best candidate as a model, and the report of the whole search."""
        best = best_of(trials)
        model = self.build(best.candidate)
        feasible = [trial for trial in trials if trial.is_feasible]
        front = pareto_of(trials, lambda candidate: self.inheritance.count("macs", candidate))
        report = {
            **self._summary(best.candidate, model),
            "best_trial": best.number,
            "num_feasible": len(feasible),
            "num_evaluated": len({trial.candidate.key for trial in trials}),
            "space_size": float(self.space.num_candidates),
            "limits": self.spending.limits,
            "trials": [self._line(trial) for trial in trials],
            "pareto": [self._line(trial) for trial in front],
        }
        return StageResult(report=report, model=model)

    def unchanged(self) -> StageResult:
        """Return the parent, which keeps the budget as it is."""
        report = {
            **self._summary(self.space.largest, self.parent),
            "note": f"the model keeps the budget {self.config.budget} as it is: nothing was searched.",
            "best_trial": None,
            "trials": [],
            "pareto": [],
        }
        return StageResult(report=report, model=self.parent)

    def _summary(self, candidate: Candidate, model: Model) -> dict[str, Any]:
        cost = self.spending.cost(candidate)
        return {
            "cost": cost.as_json(),
            "cost_before": cost_of(self.parent).as_json(),
            "validation_accuracy": accuracy(model.module, self.call.task, "validation"),
            "validation_accuracy_before": accuracy(self.parent.module, self.call.task, "validation"),
            "kept": {group.name: [candidate.widths[group.name], group.num_channels] for group in self.space.groups},
            "dropped": list(candidate.dropped),
        }

    def _line(self, trial: Trial) -> dict[str, Any]:
        widths = {group.name: trial.candidate.widths[group.name] / group.num_channels for group in self.space.groups}
        return {
            "number": trial.number,
            "value": trial.value,
            "cost": self.spending.cost(trial.candidate).as_json(),
            "excess": trial.excess,
            "is_feasible": trial.is_feasible,
            "widths": widths,
            "dropped": list(trial.candidate.dropped),
        }
