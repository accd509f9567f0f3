"""Stage distill: train a small network on what a large one answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compress.core.lineage import Step
from compress.core.registry import Piece
from compress.core.stage import STAGES, StageCall, StageResult, piece_field
from compress.distill import Distiller
from compress.distill.losses import LOSSES
from compress.measure import cost_of
from compress.train.fit import fit
from compress.train.recipes import RECIPES
from compress.train.scoring import accuracy
from compress.train.settings import FitConfig


@dataclass(frozen=True, kw_only=True)
class DistillConfig(FitConfig):
    """How the student learns.

    Attributes:
        loss: What is matched between student and teacher; holds the weight of the true labels.
    """

    loss: Piece[Any] = piece_field(LOSSES, "logits")
    recipe: Piece[Any] = piece_field(RECIPES, "sgd_one_cycle")
    epochs: float = 20.0


@STAGES.register("distill", config=DistillConfig, roles=("model", "teacher"))
def distill(call: StageCall) -> StageResult:
    """Train a small network on what a large one answers.

    Args:
        call: Roles "model" (the student, with the weights that it starts from) and "teacher"; needs a task.
    """
    config, task = call.config, call.task
    student, teacher = call.model("model").copy(), call.model("teacher")
    before = accuracy(student.module, task, "validation")
    loss = Distiller(config.loss, student, teacher, seed=config.seed)
    found = fit(student.module, task, config, scratch=call.scratch, what="distill", loss=loss)
    taught = student.then(student.module, Step(stage="distill", config=config.as_json()))
    report = {
        **found.as_json(),
        "validation_accuracy_before": before,
        "teacher_validation_accuracy": accuracy(teacher.module, task, "validation"),
        "loss": config.loss.as_json(),
        "cost": cost_of(taught).as_json(),
    }
    return StageResult(report=report, model=taught)
