"""Stage train: build a network and train it, or take trained weights from a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import compress.models  # noqa: F401  (registers the builders)
from compress.core.lineage import BUILDERS, Step
from compress.core.model import Model
from compress.core.registry import Piece
from compress.core.stage import STAGES, StageCall, StageResult, piece_field
from compress.measure import cost_of
from compress.models.pretrained import load_npz
from compress.train.fit import fit
from compress.train.settings import FitConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(FitConfig):
    """What is built and how it is trained.

    Attributes:
        builder: The network.
        weights: Path of an .npz archive with weights to start from, or "" for random ones. With
            epochs=0 they are stored as they are.
    """

    builder: Piece[Any] = piece_field(BUILDERS, "resnet_cifar")
    weights: str = ""
    epochs: float = 30.0


@STAGES.register("train", config=TrainConfig, roles=())
def train(call: StageCall) -> StageResult:
    """Build a network and train it, or take trained weights from a file.

    Args:
        call: No roles; needs a task.
    """
    config: TrainConfig = call.config
    model = Model.build(config.builder, call.task.input, seed=config.seed)
    if config.weights:
        model = load_npz(model, config.weights)
    found = fit(model.module, call.task, config, scratch=call.scratch, what="train")
    trained = model.then(model.module, Step(stage="train", config=config.as_json()))
    return StageResult(report={**found.as_json(), "cost": cost_of(trained).as_json()}, model=trained)
