"""One group of channels is cut, at once or in several cuts with training between them, and the loss measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.core.random import derived_seed
from compress.core.task import Split, Task
from compress.graph.groups import trace_groups
from compress.graph.stats import gather
from compress.graph.surgery import cut, plan_from_kept
from compress.prune.allocators.family import best
from compress.prune.criteria import CRITERIA
from compress.train.fit import fit
from compress.train.recalibrate import recalibrate_batch_norm
from compress.train.recipes import RECIPES
from compress.train.scoring import logits_of
from compress.train.settings import FitConfig
from studies.protocol import fastest_device


def judged_by(task: Task, num: int) -> Task:
    """Return the task with its first `num` validation images alone, 0 for all; a fit looks at all that there are."""
    if not num:
        return task

    def load() -> dict[str, Split]:
        whole = task.split("validation")
        return {"train": task.split("train"), "validation": replace(whole, labels_B=whole.labels_B[:num])}

    return Task(piece=task.piece, input=task.input, digest=task.digest, load=load, augment=task.augment)


def loss_after_cut(
    module: nn.Module, task: Task, pace: Mapping[str, Any], *, seed: int, scratch: Path, group: str, num_cuts: int
) -> float:
    """Return the validation loss of a copy of which one group was cut, with training behind each cut.

    The channels of smallest magnitude go, nothing takes over from them, and batch-norm statistics are measured anew.
    Every part of the training has images of its own and goes once through half a cosine.

    Args:
        module: The network; stays as it is.
        task: Its data.
        pace: "ratio" of the channels that stay, "steps" of training in all parts together, "batch_size", "precision",
            "rate" (of learning) and "recalibrate_batches".
        seed: Which images.
        scratch: For checkpoints.
        group: What is cut; "" for nothing.
        num_cuts: By equal numbers of channels, up to rounding.

    Raises:
        ValueError: There are fewer steps than cuts.
    """
    if pace["steps"] < num_cuts:
        raise ValueError(f"{pace['steps']} steps of training cannot follow {num_cuts} cuts: take a step or more a cut.")
    config = FitConfig(
        recipe=RECIPES.bind("sgd_cosine", lr=pace["rate"]),
        max_steps=pace["steps"] // num_cuts,
        batch_size=pace["batch_size"],
        precision=pace["precision"],
        select="last",
    )
    sizes = {"num_batches": pace["recalibrate_batches"], "batch_size": pace["batch_size"]}
    first = 0
    for part in range(num_cuts):
        if group:
            groups = trace_groups(module, task.input.example(), is_verified=False)
            first = first or next(one.num_channels for one in groups if one.name == group)
            count = max(1, round(first * (1 - (1 - pace["ratio"]) * (part + 1) / num_cuts)))
            scores_C = CRITERIA.bind("magnitude")(gather(module, groups, ("weight",))[group])
            module = cut(module, plan_from_kept(groups, {group: best(scores_C, count)}))
            with fastest_device(module):
                recalibrate_batch_norm(module, task, **sizes, seed=seed)
        else:
            module = cut(module, {"kind": "cut", "dropped": [], "layers": {}})
        own = derived_seed(seed, "part", part) if part else seed
        what = f"{group or 'whole'} {part + 1} of {num_cuts}"
        fit(module, task, replace(config, seed=own), scratch=scratch, what=what)
    with fastest_device(module), torch.inference_mode():
        logits_NC, labels_N = logits_of(module, task, "validation")
    return float(task.loss(logits_NC, labels_N))
