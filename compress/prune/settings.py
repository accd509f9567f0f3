"""What a pruning session is told."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from compress.core.registry import Piece
from compress.core.stage import piece_field
from compress.graph.stats import check_blocks_have
from compress.measure.runtimes import RUNTIMES
from compress.prune.allocators import ALLOCATORS
from compress.prune.compensations import COMPENSATIONS
from compress.prune.conversions import CONVERSIONS
from compress.prune.criteria import CRITERIA
from compress.prune.normalizers import NORMALIZERS
from compress.prune.schedules import SCHEDULES
from compress.prune.spending import steerable
from compress.train.objectives import OBJECTIVES
from compress.train.recipes import RECIPES
from compress.train.settings import FitConfig


def is_active(piece: Piece[Any]) -> bool:
    """Return whether a piece does anything."""
    return not piece.card.extra.get("is_no_op", False)


@dataclass(frozen=True, kw_only=True)
class CutConfig(FitConfig):
    """What is cut, how much of it, when, and how the rest is trained.

    Attributes:
        criterion: What a channel is worth.
        normalizer: How scores of different groups become comparable; "none" where scores of blocks are compared with
            those of channels.
        allocator: How much each group loses.
        schedule: In how many cuts.
        units: What may go: channels, residual blocks as a whole, or both in one ranking.
        reach: Which channels: all, or those inside blocks, that one layer alone writes; streams then keep their width.
        budget: Parts of the cost of the entry "reference", or of the model itself: "macs=0.5,latency_ms=0.6".
        compensation: What the remaining channels take over from those that go, before the cut.
        conversion: What convolutions become after the cut, where that is faster in `runtime` at `latency_batch`.
        conversion_share: Part of all fine-tuning during which they fade into what they become; 0 replaces them at once.
        sparsity: Penalty of the training in front of the first cut.
        sparsity_share: Part of all fine-tuning that is spent in front of the first cut, under the penalty; in [0, 1).
        score_batches: Training batches of `batch_size` for what scores and compensations gather; 1 or more.
        recalibrate_batches: Training batches for the batch-norm statistics after a cut; 0 leaves them.
        trial_images: Validation inputs that judge an allocator's trial cut; 0 for all.
        trial_batches: Training batches for the batch-norm statistics of a trial cut; 0 leaves them.
        runtime: Where latency is measured, when that is limited.
        latency_batch: Inputs of one timed call.
        latency_rounds: Samples of the cut network and of the reference.
        latency_pause_s: Seconds of rest between two parts of a measurement; spreads it over more states of a machine
            that others use too.
        epochs: Fine-tuning of all parts together.
    """

    criterion: Piece[Any] = piece_field(CRITERIA, "magnitude")
    normalizer: Piece[Any] = piece_field(NORMALIZERS, "max")
    allocator: Piece[Any] = piece_field(ALLOCATORS, "global")
    schedule: Piece[Any] = piece_field(SCHEDULES, "one_shot")
    units: Literal["channels", "blocks", "channels and blocks"] = "channels"
    reach: Literal["all", "inside"] = "inside"
    budget: str = "macs=0.5"
    compensation: Piece[Any] = piece_field(COMPENSATIONS, "least_squares")
    conversion: Piece[Any] = piece_field(CONVERSIONS, "none")
    conversion_share: float = 0.0
    sparsity: Piece[Any] = piece_field(OBJECTIVES, "none")
    sparsity_share: float = 0.0
    score_batches: int = 16
    recalibrate_batches: int = 20
    trial_images: int = 1000
    trial_batches: int = 4
    runtime: Piece[Any] = piece_field(RUNTIMES, "torch")
    latency_batch: int = 32
    latency_rounds: int = 20
    latency_pause_s: float = 0.0
    recipe: Piece[Any] = piece_field(RECIPES, '{"name": "sgd_cosine", "lr": 0.02}')
    epochs: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        steerable(self.budget)
        for name, least, usual in (
            ("score_batches", 1, "16 is usual"),
            ("recalibrate_batches", 0, "0 leaves the statistics"),
            ("trial_images", 0, "0 takes all"),
            ("trial_batches", 0, "0 leaves the statistics"),
            ("latency_batch", 1, "1 or 64 are usual"),
            ("latency_rounds", 1, "20 is usual"),
            ("latency_pause_s", 0, "0 measures in one go"),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be {least} or more; {usual}.")
        self._check_units()
        self._check_shares()

    def _check_units(self) -> None:
        """Raise ValueError for scores that blocks do not have, or that do not share the channels' unit."""
        for need in self.criterion.card.needs if self.has_blocks else ():
            check_blocks_have(need)
        is_mixed = self.has_blocks and self.has_channels
        if is_mixed and self.allocator.card.extra.get("compares_groups", False) and is_active(self.normalizer):
            raise ValueError(
                f"allocator={self.allocator.name} compares channels with blocks, and normalizer={self.normalizer.name} "
                f"makes the best block worth as much as the best channel of any layer: choose normalizer=none, or an "
                f"allocator that tries cuts out, for example measured_greedy."
            )

    def _check_shares(self) -> None:
        """Raise ValueError for shares of the fine-tuning that do not fit together or have no effect."""
        if not 0 <= self.sparsity_share < 1 or not 0 <= self.conversion_share < 1:
            raise ValueError(
                f"sparsity_share={self.sparsity_share}, conversion_share={self.conversion_share}: parts of all "
                f"fine-tuning lie in [0, 1)."
            )
        if self.sparsity_share + self.conversion_share >= 1:
            raise ValueError(
                f"sparsity_share={self.sparsity_share} and conversion_share={self.conversion_share} leave no "
                f"fine-tuning after the cut: choose shares whose sum is below 1."
            )
        if is_active(self.sparsity) != (self.sparsity_share > 0):
            raise ValueError(
                f"sparsity={self.sparsity} with sparsity_share={self.sparsity_share} has no effect: name a penalty and "
                f"a share above 0, for example 0.5, or neither."
            )
        if self.conversion_share and not is_active(self.conversion):
            raise ValueError(f"conversion_share={self.conversion_share} has no effect: name a conversion.")

    @property
    def has_blocks(self) -> bool:
        """Whether residual blocks may go."""
        return "blocks" in self.units

    @property
    def has_channels(self) -> bool:
        """Whether single channels may go."""
        return "channels" in self.units

    def tuning(self, share: float) -> FitConfig:
        """Return the configuration of a fit with this share of all fine-tuning."""
        whole = {item.name: getattr(self, item.name) for item in fields(FitConfig)}
        steps = max(1, round(self.max_steps * share)) if self.max_steps else 0
        return FitConfig(**(whole | {"epochs": self.epochs * share, "max_steps": steps}))
