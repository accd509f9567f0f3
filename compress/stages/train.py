"""Stage train: build a network and train it, or take trained weights from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compress.models  # noqa: F401  (registers the builders)
from compress.core.lineage import BUILDERS, Step
from compress.core.model import Model, sha256_of
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

    def as_json(self) -> dict[str, Any]:
        """As in every stage, but the weights stand there by their content: a replaced file is another call.

        Raises:
            ValueError: There is no such file.
        """
        plain = super().as_json()
        if self.weights:
            path = Path(self.weights)
            if not path.is_file():
                raise ValueError(f"no weights at {path}: name an .npz file that exists.")
            plain["weights"] = f"sha256:{sha256_of(path)}"
        return plain


@STAGES.register("train", config=TrainConfig, roles=(), is_parallel=True)
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
