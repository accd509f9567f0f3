"""Trials: what a cut would do to the network, found out by cutting a copy, and remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.core.journal import Journal
from compress.core.model import Model
from compress.graph.cost_model import CostModel
from compress.graph.groups import find_blocks
from compress.graph.surgery import cut, plan_from_kept
from compress.prune.compensating import Compensator
from compress.prune.spending import split_masks
from compress.train.recalibrate import recalibrate_batch_norm
from compress.train.scoring import logits_of


class Judge:
    """Cuts copies of one network as `prune` does, recalibrates their batch norm and judges them on validation inputs.

    Answers come from the journal when it has them, so the same masks are never judged twice.

    Attributes:
        blocks: Those that masks under BLOCKS stand for.
        settings: What else than the masks an answer depends on; "network" tells the weights.
    """

    def __init__(
        self,
        compensator: Compensator,
        journal: Journal,
        *,
        num_batches: int,
        batch_size: int,
        limit: int,
        seed: int,
    ) -> None:
        """Fix how trials are made.

        Args:
            compensator: Of the network, which stays as it is.
            journal: What earlier trials gave.
            num_batches: Training batches for the batch-norm statistics; 0 leaves them.
            batch_size: Inputs of one such batch.
            limit: Validation inputs, the first ones; 0 for all.
            seed: Which training inputs.
        """
        model, groups, task = compensator.model, compensator.groups, compensator.task
        self._groups, self._task, self._journal, self._compensator = groups, task, journal, compensator
        self._recalibration = {"num_batches": num_batches, "batch_size": batch_size, "seed": seed}
        self._limit = limit or None
        self._costs = CostModel(model.module, groups, model.input.example(1))
        self._known: dict[str, float] = {}
        self.blocks = find_blocks(model.module)
        self.settings: dict[str, Any] = {
            "network": digest_of(model),
            "data": task.digest,
            **self._recalibration,
            "limit": limit,
            **compensator.settings,
        }

    def __call__(self, masks: Mapping[str, Tensor]) -> dict[str, float]:
        """Return loss, accuracy, macs and params of the network that masks (C,) by group leave."""
        key = f"{self.settings['network']}/{masks_key(masks)}"
        found: dict[str, float] = self._journal.get("trial", key, lambda: self._judged(masks))
        return found

    def loss(self, masks: Mapping[str, Tensor]) -> float:
        """Return the mean loss alone, also from curves that were learnt."""
        key = masks_key(masks)
        return self._known[key] if key in self._known else self(masks)["loss"]

    def learn(self, measured: Mapping[str, Any]) -> None:
        """Take over the losses of sensitivity curves, as the stage `sensitivity` wrote them.

        Raises:
            ValueError: They belong to another network or were judged otherwise; says what differs.
        """
        theirs = measured["judged"]
        if differs := [
            f"{name} {theirs.get(name, 'none')} (here {self.settings.get(name, 'none')})"
            for name in {**self.settings, **theirs}
            if theirs.get(name) != self.settings.get(name)
        ]:
            raise ValueError(
                f"the sensitivity curves were measured with {', '.join(differs)}: run the stage `sensitivity` on this "
                f"model and data with recalibrate_batches, validation_limit, score_batches, batch_size, compensation "
                f"and seed as trial_batches, trial_images and the others are here, or leave the role out."
            )
        for curve in measured["curves"]:
            self._known |= dict(zip(curve["keys"], curve["losses"], strict=True))

    def _judged(self, masks: Mapping[str, Tensor]) -> dict[str, float]:
        kept, dropped = split_masks(masks, self.blocks)
        module = cut(self._compensator(kept), plan_from_kept(self._groups, kept, dropped))
        if self._recalibration["num_batches"]:
            recalibrate_batch_norm(module, self._task, **self._recalibration)
        logits_NC, labels_N = logits_of(module, self._task, "validation", limit=self._limit)
        return {
            "loss": float(self._task.loss(logits_NC, labels_N)),
            "accuracy": float(self._task.correct(logits_NC, labels_N).double().mean()),
            "macs": self._costs.macs(kept, dropped),
            "params": self._costs.params(kept, dropped),
        }


def masks_key(masks: Mapping[str, Tensor]) -> str:
    """Return 16 digits that tell these masks from all others; masks that keep everything do not count.

    >>> import torch
    >>> masks_key({"a": torch.tensor([True, True])}) == masks_key({})
    True
    """
    lines = [f"{name}:{mask_C.int().tolist()}" for name, mask_C in sorted(masks.items()) if not bool(mask_C.all())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def digest_of(model: Model) -> str:
    """Return 16 digits that tell a network's structure and weights from any other's."""
    found = hashlib.sha256()
    for name, value in model.module.state_dict().items():
        found.update(f"{name}{tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
