"""Stage prune: cut channels and blocks until the network fits a budget, then fine-tune it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from compress.core.model import Model
from compress.core.random import derived_seed
from compress.core.registry import Piece
from compress.core.stage import STAGES, StageCall, StageResult, piece_field
from compress.distill import Distiller
from compress.distill.losses import LOSSES
from compress.graph.conversion import width_of
from compress.graph.groups import trace_groups
from compress.graph.slicers import axis_size
from compress.graph.units import ChannelGroup
from compress.measure import cost_of
from compress.measure.clock import Clock
from compress.prune.allocators.threshold_line import threshold_picture
from compress.prune.converting import Referee, convert
from compress.prune.live_groups import LiveGroups
from compress.prune.ordering import largest_first
from compress.prune.session import Cut, Session, Target
from compress.prune.settings import CutConfig, is_active
from compress.prune.spending import steerable
from compress.train.fit import TapsFn, fit
from compress.train.objectives.family import Penalty
from compress.train.recalibrate import recalibrate_batch_norm
from compress.train.scoring import accuracy
from compress.train.settings import FitConfig

#: (module, progress in [0, 1]) -> None, called at each step.
OnStep = Callable[[nn.Module, float], None]
#: Largest number of channels whose scores go into the report, for the picture of the cut.
DRAWN_CHANNELS = 8192


@dataclass(frozen=True, kw_only=True)
class PruneConfig(CutConfig):
    """What is cut, how much of it, when, and how the rest is trained.

    Attributes:
        loss: What fine-tuning follows: the true labels, or also what the model answered before the cut.
    """

    loss: Piece[Any] = piece_field(LOSSES, "labels")


class _Training:
    """The fine-tuning in front of, between and after the cuts."""

    def __init__(self, call: StageCall, session: Session) -> None:
        self.config, self.task, self.scratch = call.config, call.task, call.scratch
        self.teacher, self.session = call.model(), session
        self.fits: list[dict[str, Any]] = []

    def __call__(self, model: Model, share: float, penalty: Penalty | None = None) -> Model:
        """Fine-tune in place with a share of what is left for the cuts; the module is this stage's own."""
        rest = 1 - self.config.sparsity_share - self.config.conversion_share
        return self._fit(model, self.config.tuning(share * rest), penalty=penalty)

    def sparse(self, model: Model) -> Model:
        """Train under the penalty, in front of the first cut; one that orders channels starts from their sizes."""
        if self.config.sparsity.card.extra.get("is_ordering"):
            model = largest_first(model, self.session.whole.ranked)
        return self._fit(model, self.config.tuning(self.config.sparsity_share), penalty=self.config.sparsity)

    def fading(self, model: Model, share: float, on_step: OnStep) -> Model:
        """Train while layers fade; the weights of the last step are kept, because only they belong to the end."""
        return self._fit(model, replace(self.config.tuning(share), select="last"), on_step=on_step)

    def _fit(
        self, model: Model, tuning: FitConfig, *, penalty: Penalty | None = None, on_step: OnStep | None = None
    ) -> Model:
        """Train one part; from the second one on with images in an order of its own, not the first part's again."""
        cuts, number = self.session.cuts, len(self.fits)
        if penalty is not None:
            tuning = replace(tuning, select="last")
        if number:
            tuning = replace(tuning, seed=derived_seed(self.config.seed, "part", number))
        if tuning.num_steps(len(self.task.split("train"))):
            found = fit(
                model.module,
                self.task,
                tuning,
                scratch=self.scratch,
                what=f"prune: fine-tune {len(cuts)}" if cuts else "prune: in front of the cut",
                loss=self._loss(model),
                penalties=() if penalty is None else (penalty,),
                taps=_taps(model, penalty, on_step, self.session.whole.ranked),
            )
            self.fits.append(found.as_json())
            if cuts:
                cuts[-1].accuracy_tuned = accuracy(model.module, self.task, "validation")
        return model

    def _loss(self, student: Model) -> Distiller | None:
        """Return the loss with the model as it was before any cut as the teacher, or None for the task's own."""
        loss = self.config.loss
        if not loss.card.extra.get("has_teacher", True):
            return None
        return Distiller(loss, student, self.teacher, seed=self.config.seed)


def _taps(
    model: Model, penalty: Penalty | None, on_step: OnStep | None, ranked: tuple[ChannelGroup, ...]
) -> TapsFn | None:
    """Return what the training loop asks for at each step; objectives see what may be cut, all if only blocks may."""
    if isinstance(penalty, Piece):
        return LiveGroups(model.module, ranked or trace_groups(model.module, model.input.example()))
    if on_step is None:
        return None

    def taps(module: nn.Module, progress: float) -> dict[str, Any]:
        on_step(module, progress)
        return {}

    return taps


@STAGES.register("prune", config=PruneConfig, roles=("model",), optional_roles=("reference", "sensitivity"), version=5)
def prune(call: StageCall) -> StageResult:
    """Cut channels and blocks until the network fits a budget, then fine-tune it.

    Args:
        call: Role "model", which is cut, perhaps "reference", whose cost the budget is a part of, and perhaps
            "sensitivity", whose curves of the model save allocators their trials; needs a task.
    """
    config, task, model = call.config, call.task, call.model()
    before, start = accuracy(model.module, task, "validation"), cost_of(model)
    budget = steerable(config.budget)
    target = Target.of(budget, call.model("reference") if "reference" in call.parents else model)
    with ExitStack() as stack:
        clock = None
        if budget.latency_ms is not None:
            reference = call.parents.get("reference", call.parents["model"])
            rounds, pause_s = config.latency_rounds, config.latency_pause_s
            against = Clock.against(
                reference, config.runtime, batch=config.latency_batch, rounds=rounds, pause_s=pause_s
            )
            clock = stack.enter_context(against)
        session = Session(config, task, call.scratch, model, target, clock)
        session.curves = _curves(call)
        train = _Training(call, session)
        note, pruned = "", model.copy()
        if not session.is_needed:
            pruned, note = model, f"nothing to cut: the model fits {config.budget} already"
            session.cuts.append(Cut(1.0, before, before, before, start.as_json(), start.as_json()))
        else:
            pruned = train.sparse(pruned) if config.sparsity_share else pruned
            pruned = config.schedule(pruned, session.prune_to, train, session.choose)
        kept = _kept_counts(model, pruned)
        converted: dict[str, Any] = {}
        if is_active(config.conversion):
            pruned, converted = _converted(pruned, train, config, is_cut=session.is_needed)
    report = _report(session, model, pruned) | {"accuracy_before": before, "fits": train.fits, "kept": kept}
    if converted:
        report |= {"conversion": converted, "validation_accuracy": converted["accuracy"]}
    return StageResult(report=report | ({"note": note} if note else {}), model=pruned)


def _curves(call: StageCall) -> Any:
    """Return what the role "sensitivity" measured, or None without it."""
    if "sensitivity" not in call.parents:
        return None
    return json.loads(call.parents["sensitivity"].files["sensitivity.json"].read_text())


def _converted(model: Model, train: _Training, config: PruneConfig, *, is_cut: bool) -> tuple[Model, dict[str, Any]]:
    """Convert what gets faster, with a share of the fine-tuning to fade, and recalibrate.

    The rest of the fine-tuning went behind the cuts; where nothing had to be cut, it follows here.
    """
    rounds, journal = config.latency_rounds, train.session.journal
    referee = Referee(config.runtime, batch=config.latency_batch, rounds=rounds, seed=config.seed, journal=journal)
    share = config.conversion_share
    fading = train.fading if share else None
    result, report = convert(
        model, config.conversion, referee=referee, train=fading, share=share, config=config.as_json()
    )
    if report["num_converted"] and config.recalibrate_batches:
        settings = {"num_batches": config.recalibrate_batches, "batch_size": config.batch_size}
        recalibrate_batch_norm(result.module, train.task, **settings, seed=config.seed)
    if not is_cut and (share or report["num_converted"]):
        result = train(result, 1.0)
    report["accuracy"] = accuracy(result.module, train.task, "validation")
    return result, report


def _picture(session: Session) -> dict[str, Any]:
    """Return the sorted scores of the last cut and where they were cut; nothing for networks too large to draw."""
    choice = session.choice
    if choice is None or sum(len(mask_C) for mask_C in choice.kept.values()) > DRAWN_CHANNELS:
        return {}
    return threshold_picture({name: choice.scores[name] for name in choice.kept}, choice.kept)


def _report(session: Session, model: Model, pruned: Model) -> dict[str, Any]:
    last = session.cuts[-1]
    return {
        "accuracy_cut": last.accuracy_cut,
        "accuracy_recalibrated": last.accuracy_recalibrated,
        "accuracy_tuned": last.accuracy_tuned,
        "validation_accuracy": last.accuracy_tuned,
        "cost_before": cost_of(model).as_json(),
        "cost": cost_of(pruned).as_json(),
        "limits": {**session.target.counted, **session.target.measured},
        "dropped": [path for cut in session.cuts for path in cut.dropped],
        "layers": _layer_widths(model.module, pruned.module),
        "cuts": [asdict(cut) for cut in session.cuts],
        "looks": session.looks,
        "sorted_scores": _picture(session),
    }


def _kept_counts(before: Model, after: Model) -> dict[str, list[int]]:
    """Return [channels now, channels before] by group; cutting changes no group's name, dropping a block ends some."""
    now, then = (trace_groups(model.module, model.input.example(), is_verified=False) for model in (after, before))
    left = {group.name: group.num_channels for group in now}
    return {group.name: [left.get(group.name, 0), group.num_channels] for group in then}


def _layer_widths(before: nn.Module, after: nn.Module) -> dict[str, list[int]]:
    """Return [output channels now, before] of every convolution and linear layer; 0 for one in a dropped block."""
    left = dict(after.named_modules())
    return {
        path: [width_of(left[path]) if path in left else 0, axis_size(layer, "out")]
        for path, layer in before.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
