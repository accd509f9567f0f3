"""A pruning session: the tools that a schedule is handed, and notes of what they did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.core.budget import Budget, Cost, Infeasible, RelativeBudget
from compress.core.journal import Journal
from compress.core.model import Model
from compress.core.task import Task
from compress.graph.cost_model import COUNTED, CostModel
from compress.graph.groups import find_blocks, trace_groups
from compress.graph.latency_model import LatencyModel
from compress.graph.stats import gather
from compress.graph.streams import inner_groups
from compress.graph.surgery import apply, changes_nothing, plan_from_kept
from compress.graph.units import BLOCKS, Block, ChannelGroup
from compress.measure import cost_of
from compress.measure.aim import CLOSE, next_aim
from compress.measure.clock import Clock
from compress.measure.latency_table import LatencyTable
from compress.prune.compensating import Compensator
from compress.prune.schedules.family import Choice
from compress.prune.settings import CutConfig
from compress.prune.spending import FORESEEN, Amounts, limits_at, spending, split_masks
from compress.prune.trials import Judge, digest_of
from compress.train.recalibrate import recalibrate_batch_norm
from compress.train.scoring import accuracy

#: Rounds of allocate, measure, correct when a limit can only be foreseen.
NUM_CORRECTIONS = 6


@dataclass
class Cut:
    """What one cut did. Accuracies are on the validation split; `kept` is [channels after, before] by group."""

    depth: float
    accuracy_cut: float
    accuracy_recalibrated: float
    accuracy_tuned: float
    cost_before: dict[str, Any]
    cost: dict[str, Any]
    kept: dict[str, list[int]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    tries: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """Where the cost must end.

    Attributes:
        counted: Limits in absolute units, of what is counted exactly.
        measured: Limits in parts of the reference, of what is foreseen and then measured.
        reference: Cost of the network that the parts refer to.
        digest: That network's own, from `digest_of`.
    """

    counted: Mapping[str, float]
    measured: Mapping[str, float]
    reference: Cost
    digest: str

    @classmethod
    def of(cls, budget: RelativeBudget, reference: Model) -> Target:
        """Return the target for parts of what `reference` costs."""
        measured = {name: part for name in FORESEEN if (part := getattr(budget, name)) is not None}
        cost = cost_of(reference)
        counted = replace(budget, **dict.fromkeys(FORESEEN)).of(cost).limits
        return cls(counted, measured, cost, digest_of(reference))


class Network:
    """One state of the network: its units, what they cost, and what can take over from them."""

    def __init__(self, model: Model, config: CutConfig, task: Task, table: LatencyTable | None) -> None:
        x_BCHW = model.input.example(1)
        self.model = model
        self.groups: tuple[ChannelGroup, ...] = trace_groups(model.module, model.input.example())
        self.blocks: tuple[Block, ...] = find_blocks(model.module) if config.has_blocks else ()
        self.ranked = self.groups if config.has_channels else ()
        if config.reach == "inside":
            self.ranked = inner_groups(model.module, self.ranked, x_BCHW)
        counts = CostModel(model.module, self.groups, x_BCHW)
        latency = None if table is None else LatencyModel(model.module, counts, x_BCHW, table)
        self.amounts = Amounts(counts, self.blocks, latency)
        sizes = {"num_batches": config.score_batches, "batch_size": config.batch_size, "seed": config.seed}
        self.compensator = Compensator(model, self.groups, task, config.compensation, **sizes)

    def plan_of(self, masks: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the plan that leaves out what `masks` do not keep."""
        return plan_from_kept(self.groups, *split_masks(masks, self.blocks))

    def spent(self, name: str) -> float:
        """Return what the whole network spends of a quantity, as it is foreseen."""
        return self.amounts.quantity(name)({})


class Session:
    """Scores, allocates, cuts, compensates and recalibrates.

    Args:
        config: How.
        task: Data.
        scratch: Folder that survives a kill; measured numbers are kept in it.
        start: What is cut.
        target: Where the cost must end.
        clock: Times the cut network in turns with the reference, under a latency limit.

    Attributes:
        curves: Content of sensitivity.json of the uncut network, whose losses need no second trial; or None.
        choice: What the last cut took away, or None before the first.
        cuts: What was done.
        looks: What schedules were told without a cut: its depth, how many channels would go, and how many of those
            that would have gone in the look before would stay now.
    """

    def __init__(
        self, config: CutConfig, task: Task, scratch: Path, start: Model, target: Target, clock: Clock | None
    ) -> None:
        self.config, self.task, self.clock = config, task, clock
        self.journal = Journal(scratch / "trials.jsonl")
        self.table = None
        if clock is not None:
            self.table = LatencyTable(config.runtime, self.journal, batch=config.latency_batch)
        self.target, self.aim = target, 1.0
        self.start_digest = digest_of(start)
        self.whole = Network(start, config, task, self.table)
        self.part = self.parts_of(start)
        self.curves: Mapping[str, Any] | None = None
        self.choice: Choice | None = None
        self.cuts: list[Cut] = []
        self.looks: list[dict[str, float]] = []
        self._looked: Choice | None = None

    def choose(self, model: Model, depth: float) -> Choice:
        """Return what a cut to `depth` would take away now."""
        network = Network(model, self.config, self.task, self.table)
        choice = self._choice(network, self._scores(network, depth), depth)
        returned = 0 if self._looked is None else choice.num_returned(self._looked)
        self.looks.append({"depth": depth, "gone": choice.num_gone(), "returned": returned})
        self._looked = choice
        return choice

    def cut(self, model: Model) -> Model:
        """Score, allocate and cut to the end at once, unjudged and not recalibrated; for limits that are counted."""
        network = Network(model, self.config, self.task, self.table)
        return self._cut(network, self._choice(network, self._scores(network, 1.0), 1.0))

    def prune_to(self, model: Model, depth: float) -> Model:
        """Score, allocate, cut and recalibrate; at depth 1 until measured limits are kept, closely."""
        network, cost_before = Network(model, self.config, self.task, self.table), cost_of(model).as_json()
        scores = self._scores(network, depth)
        choice = self._choice(network, scores, depth)
        tries: list[dict[str, float]] = []
        if depth >= 1 and self.part:
            choice, tries = self._refereed(network, scores)
        pruned, self.choice = self._cut(network, choice), choice
        raw = accuracy(pruned.module, self.task, "validation")
        recalibrated = raw
        if self.config.recalibrate_batches:
            settings = {"num_batches": self.config.recalibrate_batches, "batch_size": self.config.batch_size}
            recalibrate_batch_norm(pruned.module, self.task, **settings, seed=self.config.seed)
            recalibrated = accuracy(pruned.module, self.task, "validation")
        counts = {name: [int(mask_C.sum()), len(mask_C)] for name, mask_C in choice.kept.items()}
        cost = cost_of(pruned).as_json()
        dropped = list(choice.dropped)
        self.cuts.append(Cut(depth, raw, recalibrated, recalibrated, cost_before, cost, counts, dropped, tries))
        return pruned

    @property
    def is_needed(self) -> bool:
        """Whether the network that is to be cut exceeds a limit."""
        limits = self.target.counted
        return any(self.whole.spent(name) > limit for name, limit in limits.items()) or any(
            part > self.target.measured[name] for name, part in self.part.items()
        )

    def parts_of(self, model: Model) -> dict[str, float]:
        """Return what a network spends of each measured quantity under a limit, in parts of the reference.

        The reference itself spends exactly 1: on a busy machine the clock would say that it fits or that it does not.
        """
        found: dict[str, float] = {}
        if digest_of(model) == self.target.digest:
            return dict.fromkeys(self.target.measured, 1.0)
        if "latency_ms" in self.target.measured:
            clock = self.clock
            assert clock is not None
            found["latency_ms"] = self.journal.get("ratio", digest_of(model), lambda: clock.measure(model)["ratio"])
        if "size_bytes" in self.target.measured:
            size_bytes, whole_bytes = cost_of(model).size_bytes, self.target.reference.size_bytes
            assert size_bytes is not None
            assert whole_bytes is not None
            found["size_bytes"] = size_bytes / whole_bytes
        return found

    def _limits(self, depth: float) -> dict[str, float]:
        """Return the limits at `depth`; of what is measured, in the units in which it is foreseen."""
        start: dict[str, Any] = {n: self.whole.spent(n) for n in (*self.target.counted, *self.target.measured)}
        target = dict(self.target.counted)
        for name, part in self.target.measured.items():
            target[name] = start[name] * part / self.part[name] * self.aim
        return limits_at(depth, Cost(**start), Budget(**target))

    def _choice(self, network: Network, scores: Mapping[str, Tensor], depth: float) -> Choice:
        config = self.config
        judge = Judge(
            network.compensator,
            self.journal,
            num_batches=config.trial_batches,
            batch_size=config.batch_size,
            limit=config.trial_images,
            seed=config.seed,
        )
        if self.curves is not None and judge.settings["network"] == self.start_digest:
            judge.learn(self.curves)
        try:
            masks = config.allocator(scores, *spending(network.amounts, self._limits(depth)), judge.loss)
        except Infeasible as error:
            if len(network.ranked) < len(network.groups) and config.has_channels:
                error.args = (f"{error} With reach=all, channels of the streams between blocks may go too.",)
            raise
        return Choice(network.groups, *split_masks(masks, network.blocks), scores)

    def _scores(self, network: Network, depth: float) -> dict[str, Tensor]:
        config = self.config
        counted = {name: limit for name, limit in self._limits(depth).items() if name in COUNTED}
        stats = gather(
            network.model.module,
            network.ranked,
            config.criterion.card.needs,
            self.task,
            num_batches=config.score_batches,
            batch_size=config.batch_size,
            seed=config.seed,
            blocks=network.blocks,
            limits=counted or None,
        )
        names = [group.name for group in network.ranked]
        names += [BLOCKS] if network.blocks else []
        return {name: config.normalizer(config.criterion(stats[name])) for name in names}

    def _cut(self, network: Network, choice: Choice) -> Model:
        if changes_nothing(_plan(choice)):
            return network.model
        model = replace(network.model, module=network.compensator(choice.kept))
        return apply(model, _plan(choice), stage="prune", config=self.config.as_json())

    def _refereed(self, network: Network, scores: Mapping[str, Tensor]) -> tuple[Choice, list[dict[str, float]]]:
        """Allocate, cut, measure and correct the aim, until the tightest measured limit is kept closely from below."""
        seen: dict[str, tuple[dict[str, float], Choice]] = {}
        tried: list[tuple[float, float]] = []
        unreachable = 0.0
        for _ in range(NUM_CORRECTIONS):
            try:
                choice = self._choice(network, scores, 1.0)
            except Infeasible:
                if not tried:
                    raise
                unreachable = self.aim
                self.aim = (unreachable + min(aim for aim, _ in tried)) / 2
                continue
            key = json.dumps(_plan(choice), sort_keys=True)
            if key not in seen:
                parts = self.parts_of(self._cut(network, choice))
                seen[key] = ({name: parts[name] / limit for name, limit in self.target.measured.items()}, choice)
            tried.append((self.aim, max(seen[key][0].values())))
            if CLOSE <= tried[-1][1] <= 1:
                break
            following = next_aim(tried)
            self.aim = following if following > unreachable else (unreachable + self.aim) / 2
        fitting = [found for found in seen.values() if max(found[0].values()) <= 1]
        if not fitting:
            raise self._refusal([shares for shares, _ in seen.values()])
        _, choice = max(fitting, key=lambda found: max(found[0].values()))
        return choice, [{"aim": aim, "spent": spent} for aim, spent in tried]

    def _refusal(self, tried: Sequence[Mapping[str, float]]) -> Infeasible:
        """Return the error for tries that spent these parts of the measured limits."""
        closest = min(tried, key=lambda shares: max(shares.values()))
        name = max(closest, key=lambda name: closest[name])
        limit = self.target.measured[name]
        what = f"{name} in parts of the reference, of {len(tried)} networks that were measured,"
        return Infeasible(what, limit, limit * closest[name])


def _plan(choice: Choice) -> dict[str, Any]:
    return plan_from_kept(choice.groups, choice.kept, choice.dropped)


__all__ = ["Cut", "Network", "Session", "Target"]
