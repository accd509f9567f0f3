"""ResNet-56 on CIFAR-10 at the two budgets of the literature, honestly and as the literature does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compress.core.model import Model
from compress.core.stage import Ref
from compress.core.task import Split, Task
from compress.distill import Distiller
from compress.distill.losses import LOSSES
from compress.run import task_of
from compress.studies import Bench, Cell, Study, Table, Verdict
from compress.studies.statistics import estimate
from compress.train.fit import fit
from compress.train.recipes import RECIPES
from compress.train.settings import FitConfig
from studies.charts import Dot, dots_chart
from studies.protocol import RESNET56, costs, cut_by_stage, data_of, on_test, recalibrated, start_of, store_of
from studies.tables import factor, markdown, percent, speeds

CLEAN, ALIKE = "validation_selected", "best_test_epoch"
#: Best published accuracies by speed-up in multiply-adds, in %: DepGraph with sparse learning.
PUBLISHED = {"2.1": (93.77, 2.13), "2.55": (93.64, 2.57)}
BASE: dict[str, Any] = {
    **RESNET56,
    "prune": {
        "criterion": "taylor",
        "normalizer": "none",
        "schedule": {"name": "progressive", "steps": 8},
        "batch_size": 128,
        "precision": "bfloat16",
        "score_batches": 32,
    },
    "recovery": {
        "epochs": 100,
        "batch_size": 128,
        "rate": 0.02,
        "ema_decay": 0.999,
        "loss": "logits",
        "precision": "bfloat16",
    },
    "cutting_share": 0.3,
    "recalibrate_batches": 40,
    "batch_size": 128,
    "rounds": 40,
}
AT_ONCE: dict[str, Any] = {**BASE, "prune": {**BASE["prune"], "schedule": "one_shot"}, "cutting_share": 0.0}
#: Trained here, on the 45,000 training images alone.
OWN_START: dict[str, Any] = {
    "weights": None,
    "train": {"epochs": 200, "batch_size": 128, "precision": "bfloat16", "recipe": "sgd_cosine"},
}


def quick() -> Iterator[Cell]:
    """One budget, one seed, one cut, one epoch with the true labels, both ways of selection."""
    recovery = {**BASE["recovery"], "epochs": 1, "ema_decay": 0.0, "loss": "labels"}
    yield from grid({**AT_ONCE, "recovery": recovery, "rounds": 10}, speeds=("2.1",), seeds=(0,))


def cpu() -> Iterator[Cell]:
    """One budget, one seed, one cut, three epochs with a teacher, both ways of selection; an hour on two cores."""
    recovery = {**BASE["recovery"], "epochs": 3, "ema_decay": 0.0}
    yield from grid({**AT_ONCE, "recovery": recovery}, speeds=("2.1",), seeds=(0,))


def full() -> Iterator[Cell]:
    """Both budgets, three seeds, 100 epochs; the clean way starts from weights that never saw validation images."""
    yield from grid(BASE, speeds=tuple(PUBLISHED), seeds=(0, 1, 2), clean_start=OWN_START)


def grid(
    base: Mapping[str, Any],
    *,
    speeds: Sequence[str],
    seeds: Sequence[int],
    clean_start: Mapping[str, Any] | None = None,
) -> Iterator[Cell]:
    """Yield both ways of selection for every budget and seed."""
    for speed in speeds:
        for kind in (CLEAN, ALIKE):
            for seed in seeds:
                own = clean_start if clean_start and kind == CLEAN else {}
                settings = {**base, **own, "speed": float(speed), "kind": kind}
                yield Cell(name=f"{kind}={speed}", seed=seed, settings=settings)


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Cut, with a part of the epochs in between, and train the rest under the uncut network as the teacher."""
    settings = cell.settings
    plain = task_of(settings["task"])
    start = start_of(bench, settings, plain)
    before = store_of(bench).get(start).model
    task = plain if settings["kind"] == CLEAN else as_the_literature(plain)
    cut = _cut(cell, bench, start, plain)
    model = recalibrated(cut, plain, settings, seed=cell.seed)
    told = settings["recovery"]
    config = FitConfig(
        recipe=RECIPES.bind("sgd_cosine", lr=told["rate"]),
        epochs=told["epochs"] * (1 - settings["cutting_share"]),
        batch_size=told["batch_size"],
        ema_decay=told["ema_decay"],
        precision=told["precision"],
        seed=cell.seed,
    )
    piece = LOSSES.from_json(told["loss"])
    has_teacher = piece.card.extra.get("has_teacher", True)
    loss = Distiller(piece, model, before, seed=cell.seed) if has_teacher else None
    found = fit(model.module, task, config, scratch=bench.scratch, what=cell.label, loss=loss)
    return {
        "test": {
            "start": bench.once("test-start", lambda: on_test(before.module, plain)),
            "tuned": bench.once("test", lambda: on_test(model.module, plain)),
        },
        "selected_on": found.validation_accuracy,
        "best_epoch": found.best_epoch,
        "epochs": told["epochs"],
        **bench.once("costs", lambda: costs(before, model, rounds=settings["rounds"])),
    }


def _cut(cell: Cell, bench: Bench, start: Ref, task: Task) -> Model:
    settings = cell.settings
    share, told = settings["cutting_share"], settings["recovery"]
    options = {
        **settings["prune"],
        "budget": f"macs={1 / settings['speed']:.4f}",
        "epochs": told["epochs"] * share,
        "recalibrate_batches": settings["recalibrate_batches"],
        "recipe": {"name": "sgd_cosine", "lr": told["rate"]},
    }
    return cut_by_stage(bench, start, task, options, seed=cell.seed).model


def as_the_literature(task: Task) -> Task:
    """Return a task that trains on training and validation images and selects the epoch on test images.

    That is what published figures do. It tells nothing of new images; it is there to be compared with them alone.
    """
    opened = task.opened()

    def load() -> Mapping[str, Split]:
        train, held_out = opened.split("train"), opened.split("validation")
        size = len(train)

        def images(index_B: Tensor) -> Tensor:
            is_first_B = index_B < size
            front, back = train.images(index_B[is_first_B]), held_out.images(index_B[~is_first_B] - size)
            both_BCHW = torch.empty((len(index_B), *front.shape[1:]), dtype=front.dtype)
            both_BCHW[is_first_B], both_BCHW[~is_first_B] = front, back
            return both_BCHW

        both = Split(labels_B=torch.cat([train.labels_B, held_out.labels_B]), images=images)
        return {"train": both, "validation": opened.split("test"), "test": opened.split("test")}

    return replace(task, digest=f"{task.digest} as the literature", load=load, _cache={})


def conclude(table: Table) -> Verdict:
    """Hold what was measured against what was published."""
    sentences = []
    for name in table.names:
        kind, _, speed = name.partition("=")
        best, factor_there = PUBLISHED[speed]
        found = estimate(list(table.values(name, "test.tuned").values()))
        text, seeds = found.text(scale=100), f"{found.num} seed{'s' if found.num > 1 else ''}"
        gap = 100 * found.mean - best
        way = "best test epoch, as the literature selects" if kind == ALIKE else "selected on validation data"
        like = "like for like" if kind == ALIKE else "not like for like"
        sentences.append(
            f"At {speed}x fewer multiply-adds: {text} % ({seeds}, {way}), {abs(gap):.2f} points "
            f"{'above' if gap >= 0 else 'below'} the best published {best:.2f} % at {factor_there}x, {like}."
        )
    if not sentences:
        return Verdict(headline="No cell is measured yet.")
    ordered = sorted(sentences, key=lambda text: "not like for like" in text)
    return Verdict(headline=ordered[0], sentences=tuple(ordered[1:]), table=_markdown(table))


def _markdown(table: Table) -> str:
    head = ("", "MACs", "uncut", "test accuracy", "epochs", "faster, batch 1", "batch 64", "published")
    told = {CLEAN: "selected on validation data", ALIKE: "best test epoch"}
    lines = []
    for name in table.names:
        kind, _, speed = name.partition("=")
        before, after = (percent(table, name, f"test.{state}") for state in ("start", "tuned"))
        own = (factor(table, name, "macs"), before, after, f"{table.of(name)[0]['epochs']:g}")
        lines.append((told[kind], *own, *speeds(table, name), f"{PUBLISHED[speed][0]:.2f}"))
    return f"Accuracy in %, mean ± 95 % interval over seeds.\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw what was measured beside what was published."""
    dots = []
    for name in table.names:
        found = estimate(list(table.values(name, "test.tuned").values()))
        kind, _, speed = name.partition("=")
        half = None if found.half is None else 100 * found.half
        color = "student" if kind == CLEAN else "cascade"
        dots.append(Dot(label=f"{kind.replace('_', ' ')}, {speed}×", kind=color, value=100 * found.mean, half=half))
    known = dict.fromkeys(name.partition("=")[2] for name in table.names)
    dots += [Dot(label=f"best published, {speed}×", kind="teacher", value=PUBLISHED[speed][0]) for speed in known]
    return {"accuracy": dots_chart("ResNet-56 on CIFAR-10", "test accuracy, %", dots) if table.rows else ""}


STUDY = Study(
    title="How far does ResNet-56 on CIFAR-10 get at 2.1 and 2.55 times fewer multiply-adds?",
    ideas=(),
    presets={"quick": quick, "cpu": cpu, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
