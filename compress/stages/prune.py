"""Stage prune: cut channels until the network fits a budget, then fine-tune it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.core.budget import Budget, Cost
from compress.core.model import Model
from compress.core.registry import Piece
from compress.core.stage import STAGES, StageCall, StageResult, piece_field
from compress.core.task import Task
from compress.graph.cost_model import CostModel
from compress.graph.groups import ChannelGroup, trace_groups
from compress.graph.slicers import axis_size
from compress.graph.stats import gather
from compress.graph.surgery import apply, changes_nothing, plan_from_kept
from compress.measure import cost_of
from compress.prune.allocators import ALLOCATORS
from compress.prune.criteria import CRITERIA
from compress.prune.normalizers import NORMALIZERS
from compress.prune.schedules import SCHEDULES
from compress.prune.spending import countable, limits_at, spending
from compress.train.fit import fit
from compress.train.recalibrate import recalibrate_batch_norm
from compress.train.recipes import RECIPES
from compress.train.scoring import accuracy
from compress.train.settings import FitConfig


@dataclass(frozen=True, kw_only=True)
class PruneConfig(FitConfig):
    """What is cut, how much of it, when, and how the rest is trained.

    Attributes:
        criterion: What a channel is worth.
        normalizer: How scores of different groups become comparable.
        allocator: How much each group loses.
        schedule: In how many cuts.
        budget: Parts of the cost of the entry "reference", or of the model itself: "macs=0.5,params=0.6".
        score_batches: Training batches of `batch_size` from which gradients are gathered, when they are needed; 1 or
            more.
        recalibrate_batches: Training batches for the batch-norm statistics after a cut; 0 leaves them.
        epochs: Fine-tuning after all cuts together.
    """

    criterion: Piece[Any] = piece_field(CRITERIA, "magnitude")
    normalizer: Piece[Any] = piece_field(NORMALIZERS, "mean")
    allocator: Piece[Any] = piece_field(ALLOCATORS, "global")
    schedule: Piece[Any] = piece_field(SCHEDULES, "one_shot")
    budget: str = "macs=0.5"
    score_batches: int = 16
    recalibrate_batches: int = 20
    recipe: Piece[Any] = piece_field(RECIPES, '{"name": "sgd_cosine", "lr": 0.02}')
    epochs: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        countable(self.budget)
        if self.score_batches < 1:
            raise ValueError(f"score_batches={self.score_batches}: scores need at least 1 batch; 16 is usual.")
        if self.recalibrate_batches < 0:
            raise ValueError(f"recalibrate_batches={self.recalibrate_batches}: use 0 to leave the statistics, or more.")

    def tuning(self, share: float) -> FitConfig:
        """Return the configuration of a fit with this share of all fine-tuning."""
        whole = {item.name: getattr(self, item.name) for item in fields(FitConfig)}
        steps = max(1, round(self.max_steps * share)) if self.max_steps else 0
        return FitConfig(**(whole | {"epochs": self.epochs * share, "max_steps": steps}))


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


class _Pruning:
    """Hands a schedule its two tools and notes what they did."""

    def __init__(self, config: PruneConfig, task: Task, scratch: Path, start: Cost, target: Budget) -> None:
        self.config, self.task, self.scratch = config, task, scratch
        self.start, self.target = start, target
        self.cuts: list[Cut] = []
        self.fits: list[dict[str, Any]] = []

    def prune_to(self, model: Model, depth: float) -> Model:
        """Score, allocate, cut and recalibrate."""
        groups, cost_before = trace_groups(model.module, model.input.example()), cost_of(model).as_json()
        kept = self._kept(model, groups, limits_at(depth, self.start, self.target))
        plan = plan_from_kept(groups, kept)
        if not changes_nothing(plan):
            model = apply(model, plan, stage="prune", config=self.config.as_json())
        raw = accuracy(model.module, self.task, "validation")
        recalibrated = raw
        if self.config.recalibrate_batches:
            settings = {"num_batches": self.config.recalibrate_batches, "batch_size": self.config.batch_size}
            recalibrate_batch_norm(model.module, self.task, **settings, seed=self.config.seed)
            recalibrated = accuracy(model.module, self.task, "validation")
        counts = {name: [int(mask_C.sum()), len(mask_C)] for name, mask_C in kept.items()}
        cost = cost_of(model).as_json()
        self.cuts.append(Cut(depth, raw, recalibrated, recalibrated, cost_before, cost, counts))
        return model

    def train(self, model: Model, share: float) -> Model:
        """Fine-tune in place; the module is this stage's own."""
        tuning = self.config.tuning(share)
        if tuning.num_steps(len(self.task.split("train"))):
            what = f"prune: fine-tune {len(self.cuts)}"
            found = fit(model.module, self.task, tuning, scratch=self.scratch, what=what)
            self.fits.append(found.as_json())
            self.cuts[-1].accuracy_tuned = accuracy(model.module, self.task, "validation")
        return model

    def _kept(self, model: Model, groups: tuple[ChannelGroup, ...], limits: Mapping[str, float]) -> dict[str, Tensor]:
        config = self.config
        stats = gather(
            model.module,
            groups,
            config.criterion.card.needs,
            self.task,
            num_batches=config.score_batches,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        scores = {group.name: config.normalizer(config.criterion(stats[group.name])) for group in groups}
        counts = CostModel(model.module, groups, model.input.example(1))
        return dict(config.allocator(scores, *spending(counts, limits)))


@STAGES.register("prune", config=PruneConfig, roles=("model",), optional_roles=("reference",), version=2)
def prune(call: StageCall) -> StageResult:
    """Cut channels until the network fits a budget, then fine-tune it.

    Args:
        call: Role "model", which is cut, and perhaps "reference", whose cost the budget is a part of; needs a task.
    """
    config, task, model = call.config, call.task, call.model()
    start = cost_of(model)
    target = countable(config.budget).of(cost_of(call.model("reference")) if "reference" in call.parents else start)
    before = accuracy(model.module, task, "validation")
    pruning = _Pruning(config, task, call.scratch, start, target)
    note = ""
    if target.admits(start):
        pruned, note = model, f"nothing to cut: the model fits {config.budget} already"
        pruning.cuts.append(Cut(1.0, before, before, before, start.as_json(), start.as_json()))
    else:
        pruned = config.schedule(model.copy(), pruning.prune_to, pruning.train)
    last = pruning.cuts[-1]
    report: dict[str, Any] = {
        "accuracy_before": before,
        "accuracy_cut": last.accuracy_cut,
        "accuracy_recalibrated": last.accuracy_recalibrated,
        "accuracy_tuned": last.accuracy_tuned,
        "validation_accuracy": last.accuracy_tuned,
        "cost_before": start.as_json(),
        "cost": last.cost,
        "limits": target.limits,
        "kept": _kept_counts(model, pruned),
        "dropped": [],
        "layers": _layer_widths(model.module, pruned.module),
        "cuts": [asdict(cut) for cut in pruning.cuts],
        "fits": pruning.fits,
    }
    return StageResult(report=report | ({"note": note} if note else {}), model=pruned)


def _kept_counts(before: Model, after: Model) -> dict[str, list[int]]:
    """Return [channels now, channels before] by group; cutting changes no group's name."""
    now, then = (trace_groups(model.module, model.input.example(), is_verified=False) for model in (after, before))
    left = {group.name: group.num_channels for group in now}
    return {group.name: [left[group.name], group.num_channels] for group in then}


def _layer_widths(before: nn.Module, after: nn.Module) -> dict[str, list[int]]:
    """Return [output channels now, before] of every convolution and linear layer."""
    return {
        path: [axis_size(after.get_submodule(path), "out"), axis_size(layer, "out")]
        for path, layer in before.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
