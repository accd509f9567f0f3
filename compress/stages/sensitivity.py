"""Stage sensitivity: cut every group and every block alone, and see what the network loses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from compress.core.journal import Journal
from compress.core.registry import Piece
from compress.core.stage import STAGES, StageCall, StageConfig, StageResult, piece_field
from compress.graph.groups import find_blocks, trace_groups
from compress.graph.stats import gather
from compress.measure.costs import cost_of
from compress.prune.compensating import Compensator
from compress.prune.compensations import COMPENSATIONS
from compress.prune.criteria import CRITERIA
from compress.prune.sensitivity import curves
from compress.prune.trials import Judge
from compress.train.scoring import accuracy

JOURNAL, CURVES = "trials.jsonl", "sensitivity.json"


@dataclass(frozen=True, kw_only=True)
class SensitivityConfig(StageConfig):
    """How far groups are cut, and how the cut networks are judged.

    Attributes:
        criterion: What a channel is worth; of each group the best stay. Blocks are dropped one by one without it.
        ratios: Parts of a group to keep, each in (0, 1).
        compensation: What the remaining channels take over from those that go.
        score_batches: Training batches of `batch_size` for what the criterion and the compensation gather.
        recalibrate_batches: Training batches for the batch-norm statistics of a cut network; 0 leaves them.
        validation_limit: Validation inputs that judge a cut network, the first ones; 0 for all.
        batch_size: Inputs of a training batch.
        seed: Which training inputs.
    """

    criterion: Piece[Any] = piece_field(CRITERIA, "magnitude")
    ratios: tuple[float, ...] = (0.75, 0.5, 0.25, 0.1)
    compensation: Piece[Any] = piece_field(COMPENSATIONS, "least_squares")
    score_batches: int = 16
    recalibrate_batches: int = 8
    validation_limit: int = 0
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ratios or not all(0 < ratio < 1 for ratio in self.ratios):
            raise ValueError(f"ratios={self.ratios!r}: name at least one part to keep, each in (0, 1).")
        for name, least in (
            ("score_batches", 1),
            ("recalibrate_batches", 0),
            ("validation_limit", 0),
            ("batch_size", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be {least} or more.")


@STAGES.register("sensitivity", config=SensitivityConfig, roles=("model",), version=2)
def sensitivity(call: StageCall) -> StageResult:
    """Cut every group of channels and every block alone, and measure what the network loses.

    The remaining channels take over as in the stage `prune`, and batch-norm statistics are measured anew; nothing is
    trained. The file sensitivity.json holds the
    curves for other programs.

    Args:
        call: Role "model", which is not changed; needs a task.
    """
    config, task, model = call.config, call.task, call.model()
    groups = trace_groups(model.module, model.input.example())
    if not groups and not find_blocks(model.module):
        raise ValueError("this network has neither channels nor blocks that can be cut: there is nothing to measure.")
    settings = {"batch_size": config.batch_size, "seed": config.seed}
    scoring = {"num_batches": config.score_batches, **settings}
    stats = gather(model.module, groups, config.criterion.card.needs, task, **scoring)
    judge = Judge(
        Compensator(model, groups, task, config.compensation, **scoring),
        Journal(call.scratch / JOURNAL),
        num_batches=config.recalibrate_batches,
        limit=config.validation_limit,
        **settings,
    )
    found = curves({group.name: config.criterion(stats[group.name]) for group in groups}, judge, config.ratios)
    lines = [curve.as_json() for curve in found]
    report: dict[str, Any] = {
        "cost": cost_of(model).as_json(),
        "validation_accuracy": accuracy(model.module, task, "validation"),
        "whole": judge({}),
        "damage": {curve.group: curve.damage for curve in found},
        "curves": lines,
    }
    path = call.scratch / CURVES
    origin = {"model": call.parents["model"].ref, "task": task.identity(), "config": config.as_json()}
    origin["judged"] = judge.settings
    path.write_text(json.dumps(origin | {"whole": report["whole"], "curves": lines}, indent=1) + "\n")
    return StageResult(report=report, files={CURVES: path})
