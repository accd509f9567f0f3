"""The one training loop. Methods reach it through recipes, losses and penalties, and never edit it.

A fit that was killed and started again in the same scratch folder ends in the same weights, bit for
bit: everything random in epoch e comes from (seed, e), and a checkpoint is written after each epoch, and
within a long one every `SAVE_INTERVAL_S`. Several processes (`compress.train.processes`) end in the weights of one
up to rounding; each draws its own dropout. A checkpoint serves any number of processes.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.progress import track
from compress.core.random import generator
from compress.core.registry import Piece
from compress.core.task import Task
from compress.core.weights import load_tensors
from compress.train import checkpoint
from compress.train.averaging import WeightAverage
from compress.train.hardware import accelerator_for, noise_state, repeatable, set_noise_state
from compress.train.objectives.activations import rectified_outputs
from compress.train.objectives.family import Penalty
from compress.train.processes import join
from compress.train.scoring import accuracy, device_of
from compress.train.settings import Diverged, FitConfig, FitReport

#: (module, x_BCHW, y_B) -> scalar. A loss that is an nn.Module is trained along and dropped afterwards.
LossFn = Callable[[nn.Module, Tensor, Tensor], Tensor]

#: (module, part of this fit that is over, in [0, 1]) -> what objectives read, by the names in their cards' `needs`.
TapsFn = Callable[[nn.Module, float], Mapping[str, Any]]

#: Steps between two checks that the loss is still a number.
CHECK_EVERY = 16

#: Seconds between two checkpoints within an epoch: at most so much work is done twice after a kill.
SAVE_INTERVAL_S = 60.0


def fit(
    module: nn.Module,
    task: Task,
    config: FitConfig,
    *,
    scratch: Path | None,
    what: str,
    loss: LossFn | None = None,
    penalties: Sequence[Penalty] = (),
    taps: TapsFn | None = None,
) -> FitReport:
    """Train `module` in place.

    Args:
        module: Takes x_BCHW, returns logits_BC. Ends in evaluation mode, on the device where it was.
        task: Gives the training and validation splits and the loss.
        config: How to train.
        scratch: Folder for the checkpoint, or None for a fit that cannot be resumed. Different fits
            may share it: a checkpoint's name holds a hash of the configuration, task and first weights.
        what: Short name for the progress line ("train", "distill").
        loss: Replaces the task's loss. When it is an nn.Module, its parameters are trained too.
        penalties: Each is added to the loss: pieces of OBJECTIVES, or anything that takes the module alone.
        taps: Called at each step. Gives what the objectives need beyond "activations" and "progress", which this loop
            knows; what it gives goes first. It must follow from the module and the progress alone.

    Returns:
        What happened. Also after a resumption it covers every epoch.

    Raises:
        Diverged: The loss or a weight became infinite or not a number; the checkpoint stays.
    """
    if loss is not None and config.label_smoothing:
        raise ValueError("label_smoothing belongs to the task's own loss; this fit has another loss: set it to 0.")
    home = device_of(module)
    run = _Fit(module, task, config, loss=loss, penalties=penalties, taps=taps)
    run.path = None if scratch is None else scratch / f"fit-{run.fingerprint(what)}.safetensors"
    try:
        run.go(what)
    finally:
        module.to(home).eval()
    return run.report()


class _Fit:
    """One call of `fit`: what it trains, and how far it has come."""

    def __init__(
        self,
        module: nn.Module,
        task: Task,
        config: FitConfig,
        *,
        loss: LossFn | None,
        penalties: Sequence[Penalty],
        taps: TapsFn | None,
    ) -> None:
        self.module, self.task, self.config = module, task, config
        self.penalties, self.taps = tuple(penalties), taps
        self.needs = _checked_needs(module, penalties, taps)
        self.loss = loss if loss is not None else self._task_loss
        self.extra = loss if isinstance(loss, nn.Module) else nn.Module()
        self.path: Path | None = None
        self.first_digest = checkpoint.state_digest(module, self.extra)
        num_inputs = len(task.split("train"))
        self.processes = join()
        self.processes.check_batch(min(config.batch_size, num_inputs))
        self.num_steps = config.num_steps(num_inputs)
        self.steps_per_epoch = config.steps_per_epoch(num_inputs)
        self.num_epochs = math.ceil(self.num_steps / self.steps_per_epoch)
        self.accelerator = accelerator_for(config.precision)
        self.device = self.accelerator.device
        self.trained = nn.ModuleDict({"module": module, "loss": self.extra}).to(self.device)
        self.average = WeightAverage(module, config.ema_decay) if config.ema_decay else None
        optimizer, scheduler = config.recipe(self.trained, max(1, self.num_steps))
        self.optimizer, self.scheduler = self.accelerator.prepare(optimizer, scheduler)
        self.epoch, self.best_epoch, self.best_accuracy = 0, 0, -1.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.losses: list[Tensor] = []
        self.rate = 0.0
        self.noise: dict[str, Tensor] = {}
        self.saved_at, self.place = time.monotonic(), ""

    def _task_loss(self, module: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        return self.task.loss(module(x_BCHW).float(), y_B, label_smoothing=self.config.label_smoothing)

    @property
    def judged(self) -> nn.Module:
        """The network that is evaluated and kept."""
        return self.module if self.average is None else self.average.module

    def fingerprint(self, what: str) -> str:
        """Return 16 digits that tell this fit from every other one."""
        facts = [
            what,
            self.config.as_json(),
            self.task.identity(),
            [penalty.as_json() for penalty in self.penalties],
            self.first_digest,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def go(self, what: str) -> None:
        """Train from the last checkpoint to the end, and put the selected weights into the module."""
        self.restore()
        note = [""]
        left = range(self.epoch * self.steps_per_epoch + len(self.losses), self.num_steps)
        ticks = iter(track(left, total=len(left), what=what, note=note) if self.processes.is_first else left)
        for epoch in range(self.epoch, self.num_epochs):
            row = self.train(epoch, ticks, note)
            self.epoch, self.losses = epoch + 1, []
            self.judge(row)
            self.history.append(row)
            self.save()
        next(ticks, None)
        if not self.num_steps:
            self.best_accuracy = accuracy(self.module, self.task, "validation")
        chosen = self.best or self.judged.state_dict()
        load_tensors(self.module, {name: value.clone() for name, value in chosen.items()})

    def train(self, epoch: int, ticks: Iterator[int], note: list[str]) -> dict[str, Any]:
        """Go through the batches of one epoch and return its row of the history."""
        start, num_done = time.perf_counter(), len(self.losses)
        size, first = self.config.batch_size, epoch * self.steps_per_epoch
        num_batches = min(self.steps_per_epoch, self.num_steps - first)
        draw = generator(self.config.seed, "epoch", epoch)
        if not num_done:
            self.rate = float(self.optimizer.param_groups[0]["lr"])
        self.trained.train()
        rank = self.processes.rank
        with repeatable(self.config.seed, epoch, self.device, rank), self.processes.whole_batch_norm():
            set_noise_state(self.device, self.noise)
            self.noise = {}
            batches = self.task.batches("train", batch_size=size, shuffle=draw, limit=num_batches * size)
            for index, (x_BCHW, y_B) in islice(enumerate(batches), num_done, None):
                next(ticks, None)
                x_BCHW, y_B = self.processes.share(x_BCHW), self.processes.share(y_B)
                self.losses.append(self.step(x_BCHW.to(self.device), y_B.to(self.device), first + index))
                if index % CHECK_EVERY == 0 or index == num_batches - 1:
                    self.check()
                    note[0] = self.note(float(self.losses[-1]))
                if index < num_batches - 1 and self.is_due(index):
                    self.check()
                    self.save()
        return {
            "epoch": epoch + 1,
            "train_loss": float(torch.stack(self.losses).mean()),
            "validation_accuracy": None,
            "learning_rate": self.rate,
            "seconds": round(time.perf_counter() - start, 3),
        }

    def step(self, x_BCHW: Tensor, y_B: Tensor, number: int) -> Tensor:
        """Descend once and return the detached loss, of all processes together."""
        is_heard = "activations" in self.needs
        listening: AbstractContextManager[list[Tensor]] = (
            rectified_outputs(self.module) if is_heard else nullcontext([])
        )
        with self.accelerator.autocast(), listening as activations:
            value = self.loss(self.module, x_BCHW, y_B)
        gathered = self.gathered(number, activations)
        for penalty in self.penalties:
            value = value + (penalty(self.module, gathered) if isinstance(penalty, Piece) else penalty(self.module))
        self.optimizer.zero_grad()
        self.accelerator.backward(value)
        found = self.processes.average(self.trained.parameters(), value.detach())
        if self.config.clip_norm:
            self.accelerator.clip_grad_norm_(self.trained.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        if self.average is not None:
            self.average.follow(number)
        return found

    def gathered(self, number: int, activations: Sequence[Tensor]) -> dict[str, Any]:
        """Return what the objectives need at a step, counted from 0 over the whole fit."""
        progress = number / max(1, self.num_steps - 1)
        known = {"activations": tuple(activations), "progress": progress}
        return known | dict(self.taps(self.module, progress)) if self.taps else known

    def judge(self, row: dict[str, Any]) -> None:
        """Look at the validation split when it is time, and remember the best weights."""
        is_last = self.epoch == self.num_epochs
        if self.epoch % self.config.eval_every and not is_last:
            return
        found = self.processes.first_says(lambda: accuracy(self.judged, self.task, "validation"))
        row["validation_accuracy"] = found
        if found >= self.best_accuracy or self.config.select == "last":
            self.best_accuracy, self.best_epoch = found, self.epoch
            if self.config.select == "best validation":
                self.best = {name: value.detach().clone() for name, value in self.judged.state_dict().items()}

    def note(self, loss: float) -> str:
        """Return what stands behind the progress bar."""
        seen = [row["validation_accuracy"] for row in self.history if row["validation_accuracy"] is not None]
        return f"loss {loss:.3f}" + (f", accuracy {seen[-1]:.2%}" if seen else "")

    def check(self) -> None:
        """Raise Diverged when one of the newest losses, a weight or a buffer is not finite."""
        start = max(0, len(self.losses) - CHECK_EVERY)
        newest = torch.stack(self.losses[start:])
        if not bool(newest.isfinite().all()):
            worst = int((~newest.isfinite()).nonzero()[0])
            raise self.diverged(f"the loss became {float(newest[worst])}", start + worst)
        for name, value in self.trained.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise self.diverged(f"{name} became infinite or not a number", len(self.losses) - 1)

    def diverged(self, what: str, step: int) -> Diverged:
        """Return the error for `what` at a step (counted from 0) of this epoch."""
        rate = self.config.recipe.options.get("lr", self.config.recipe.card.options["lr"].default)
        kept = f" The last good checkpoint, after {self.place}, is {self.path}." if self.place else ""
        return Diverged(
            f"{what} in epoch {self.epoch + 1}, step {step + 1}, with recipe {self.config.recipe.name!r} at "
            f"lr={rate:g}: lower the learning rate (lr={rate / 10:g}), or set clip_norm=1.{kept}"
        )

    def is_due(self, index: int) -> bool:
        """Return whether to write a checkpoint after a batch; several processes ask the first one, now and then."""
        if self.processes.count > 1 and index % CHECK_EVERY:
            return False
        return bool(self.processes.first_says(lambda: time.monotonic() - self.saved_at >= SAVE_INTERVAL_S))

    def save(self) -> None:
        """Write a checkpoint of the whole epochs, and of the batches since."""
        self.saved_at = time.monotonic()
        if self.path is None:
            return
        noises = self.processes.gathered(noise_state(self.device) if self.losses else {})
        self.place = self.reached()
        if not self.processes.is_first:
            return
        optimizer, facts = checkpoint.optimizer_parts(self.optimizer)
        tensors = {
            **checkpoint.under("trained", self.trained.state_dict()),
            **checkpoint.under("optimizer", optimizer),
            **checkpoint.under("best", self.best),
            **checkpoint.under("average", self.average.module.state_dict() if self.average else {}),
        }
        for rank, noise in enumerate(noises):
            tensors |= checkpoint.under(_noise_name(rank), noise)
        progress: Mapping[str, Any] = {
            "epoch": self.epoch,
            "losses": [float(value) for value in self.losses],
            "rate": self.rate,
            "best_epoch": self.best_epoch,
            "best_accuracy": self.best_accuracy,
            "history": self.history,
            "optimizer": facts,
            "scheduler": self.scheduler.state_dict(),
        }
        checkpoint.write(self.path, tensors, progress)

    def reached(self) -> str:
        """Return how far this fit has come, in words."""
        return f"epoch {self.epoch}" + (f" and {len(self.losses)} steps" if self.losses else "")

    def restore(self) -> None:
        """Continue from the checkpoint, if there is one."""
        is_there = self.processes.is_first and self.path is not None and self.path.is_file()
        data = self.processes.bytes_of_first(self.path.read_bytes() if is_there and self.path else b"")
        if not data:
            return
        tensors, facts = checkpoint.parse(data)
        load_tensors(self.trained, checkpoint.below("trained", tensors))
        checkpoint.load_optimizer(self.optimizer, checkpoint.below("optimizer", tensors), facts["optimizer"])
        self.scheduler.load_state_dict(facts["scheduler"])
        if self.average is not None:
            load_tensors(self.average.module, checkpoint.below("average", tensors))
        self.best = {name: value.to(self.device) for name, value in checkpoint.below("best", tensors).items()}
        self.noise = checkpoint.below(_noise_name(self.processes.rank), tensors)
        self.losses = [torch.tensor(value, device=self.device) for value in facts["losses"]]
        self.epoch, self.history, self.rate = facts["epoch"], facts["history"], facts["rate"]
        self.best_epoch, self.best_accuracy = facts["best_epoch"], facts["best_accuracy"]
        self.place = self.reached()

    def report(self) -> FitReport:
        """Return what happened."""
        return FitReport(
            validation_accuracy=self.best_accuracy,
            best_epoch=self.best_epoch,
            num_epochs=self.num_epochs,
            num_steps=self.num_steps,
            history=tuple(self.history),
        )


def _noise_name(rank: int) -> str:
    return f"noise-{rank}" if rank else "noise"


def _checked_needs(module: nn.Module, penalties: Sequence[Penalty], taps: TapsFn | None) -> set[str]:
    """Return what the objectives among `penalties` need.

    Raises:
        ValueError: Nobody gives it.
    """
    pieces = [penalty for penalty in penalties if isinstance(penalty, Piece)]
    needs = {need for piece in pieces for need in piece.card.needs}
    given = {"activations", "progress", *(taps(module, 0.0) if needs and taps else ())}
    for piece in pieces:
        if missing := set(piece.card.needs) - given:
            raise ValueError(
                f"objective {piece.name!r} needs {', '.join(sorted(missing))}, which this fit is not given: what acts "
                f"on groups of channels works in the stage prune alone (sparsity)."
            )
    return needs


__all__ = ["Diverged", "FitConfig", "FitReport", "LossFn", "TapsFn", "fit"]
