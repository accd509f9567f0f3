"""What a fit is told, and what it tells afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from compress.core.registry import Piece
from compress.core.stage import StageConfig, piece_field
from compress.train.recipes import RECIPES


class Diverged(ValueError):
    """The loss or a weight stopped being a number. The last good checkpoint was kept."""


@dataclass(frozen=True, kw_only=True)
class FitConfig(StageConfig):
    """How a network is trained. Stages that train extend it.

    Attributes:
        recipe: Optimiser and learning rate.
        epochs: Passes over the training split; 0.5 is half a pass, 0 trains nothing.
        max_steps: Number of batches, instead of `epochs` when above 0.
        batch_size: Inputs a batch. Each pass leaves out the last, incomplete batch.
        label_smoothing: Part of the target spread over all classes, in [0, 1).
        ema_decay: Decay of a moving average of the weights, which is then judged and kept; 0 for none.
        eval_every: Epochs between two looks at the validation split; the last epoch is always looked at.
        select: Keep the weights that were best on validation data (the later ones on a tie), or the last.
        seed: Of data order, augmentation and dropout.
        clip_norm: Longest gradient, in the 2-norm; 0 for any.
        precision: Of the forward pass in training; weights stay float32.
    """

    recipe: Piece[Any] = piece_field(RECIPES, "sgd_cosine")
    epochs: float = 10.0
    max_steps: int = 0
    batch_size: int = 64
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    eval_every: int = 1
    select: Literal["best validation", "last"] = "best validation"
    seed: int = 0
    clip_norm: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, is_good, allowed in (
            ("epochs", self.epochs >= 0 and math.isfinite(self.epochs), "0 or more"),
            ("max_steps", self.max_steps >= 0, "0 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)"),
            ("eval_every", self.eval_every >= 1, "1 or more"),
            ("clip_norm", self.clip_norm >= 0, "0 or more"),
        ):
            if not is_good:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be {allowed}.")

    def steps_per_epoch(self, num_inputs: int) -> int:
        """Return how many whole batches one pass over `num_inputs` has; at least 1."""
        return max(1, num_inputs // self.batch_size)

    def num_steps(self, num_inputs: int) -> int:
        """Return how many batches the whole fit takes.

        >>> FitConfig(epochs=0.5, batch_size=10).num_steps(100)
        5
        """
        if self.max_steps:
            return self.max_steps
        return max(1, round(self.epochs * self.steps_per_epoch(num_inputs))) if self.epochs else 0


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """What happened in a fit.

    Attributes:
        validation_accuracy: Of the weights that were kept, in [0, 1].
        best_epoch: Passes after which those weights were reached; 0 when nothing was trained.
        num_epochs: Passes begun.
        num_steps: Batches seen.
        history: One row a pass: epoch, train_loss, validation_accuracy (None when not looked at),
            learning_rate at its start, seconds (after an interruption within a pass, those since).
    """

    validation_accuracy: float
    best_epoch: int
    num_epochs: int
    num_steps: int
    history: tuple[dict[str, Any], ...] = ()

    @property
    def seconds(self) -> float:
        """Time spent in the passes, also before an interruption."""
        return float(sum(row["seconds"] for row in self.history))

    def as_json(self) -> dict[str, Any]:
        """JSON for a stage's report."""
        return {
            "validation_accuracy": self.validation_accuracy,
            "best_epoch": self.best_epoch,
            "num_epochs": self.num_epochs,
            "num_steps": self.num_steps,
            "history": [dict(row) for row in self.history],
        }
