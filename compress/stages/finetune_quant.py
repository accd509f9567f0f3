"""Stage finetune_quant: fine-tune so that fewer bits cost less accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from compress.core.lineage import Step
from compress.core.registry import Piece
from compress.core.stage import STAGES, StageCall, StageResult, piece_field
from compress.core.task import Task
from compress.distill import Distiller
from compress.distill.losses import LOSSES
from compress.measure import cost_of
from compress.quantize.simulate import robustness
from compress.train.fit import fit
from compress.train.objectives import OBJECTIVES
from compress.train.objectives.kurtosis import layer_kurtosis
from compress.train.recipes import RECIPES
from compress.train.scoring import accuracy
from compress.train.settings import FitConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneQuantConfig(FitConfig):
    """How the network is prepared for fewer bits.

    The last weights are kept unless `select` says otherwise: those with the best accuracy at full
    precision are often the first, on which the objective has hardly acted.

    Attributes:
        objective: Term added to the loss; its option `weight` sets how strong it is.
        loss: What is matched to a teacher, when there is one; without one the task's own loss is used.
        preview_bits: Bit-widths of the weights that are tried on validation data, before and after.
        preview_limit: At most this many validation inputs for a try.
    """

    objective: Piece[Any] = piece_field(OBJECTIVES, "kurtosis")
    loss: Piece[Any] = piece_field(LOSSES, "logits")
    recipe: Piece[Any] = piece_field(RECIPES, RECIPES.bind("sgd_cosine", lr=0.01))
    epochs: float = 5.0
    select: Literal["best validation", "last"] = "last"
    preview_bits: tuple[int, ...] = (8, 6, 5, 4)
    preview_limit: int = 1000


@STAGES.register("finetune_quant", config=FinetuneQuantConfig, roles=("model",), optional_roles=("teacher",))
def finetune_quant(call: StageCall) -> StageResult:
    """Fine-tune so that fewer bits cost less accuracy.

    The report compares both networks with simulated weights of few bits; the real INT8 file is
    made and measured by `export`.

    Args:
        call: Role "model", and optionally "teacher", whose answers are then matched; needs a task.
    """
    config, task = call.config, call.task
    model = call.model().copy()
    before = _looked_at(model.module, task, config)
    loss = None
    if "teacher" in call.parents:
        loss = Distiller(config.loss, model, call.model("teacher"), seed=config.seed)
    found = fit(
        model.module,
        task,
        config,
        scratch=call.scratch,
        what="finetune_quant",
        loss=loss,
        penalties=(config.objective,),
    )
    after = _looked_at(model.module, task, config)
    tuned = model.then(model.module, Step(stage="finetune_quant", config=config.as_json()))
    report = {
        **found.as_json(),
        "validation_accuracy_before": before["accuracy"],
        "kurtosis": {path: [value, after["kurtosis"][path]] for path, value in before["kurtosis"].items()},
        "robustness": [
            {"bits": bits, "before": value, "after": after["robustness"][bits]}
            for bits, value in before["robustness"].items()
        ],
        "has_teacher": "teacher" in call.parents,
        "cost": cost_of(tuned).as_json(),
    }
    return StageResult(report=report, model=tuned)


def _looked_at(module: nn.Module, task: Task, config: FinetuneQuantConfig) -> dict[str, Any]:
    """Measure what the fine-tuning is meant to change."""
    return {
        "accuracy": accuracy(module, task, "validation"),
        "kurtosis": {path: float(value.detach()) for path, value in layer_kurtosis(module).items()},
        "robustness": robustness(module, task, bits=config.preview_bits, limit=config.preview_limit),
    }
