"""ResNet-56 on CIFAR-10 at the two budgets of the literature, honestly and as the literature does it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from compress.core.model import Model
from compress.core.random import derived_seed
from compress.core.stage import Ref
from compress.core.task import Split, Task
from compress.distill import Distiller
from compress.distill.losses import LOSSES
from compress.run import task_of
from compress.studies import Bench, Cell, Study, Table, Verdict
from compress.studies.statistics import Estimate, estimate, paired
from compress.train.fit import fit
from compress.train.recipes import RECIPES
from compress.train.settings import FitConfig, FitReport
from studies.charts import Dot, dots_chart
from studies.protocol import RESNET56, costs, cut_by_stage, data_of, on_test, start_of, store_of
from studies.tables import factor, markdown, percent, speeds

CLEAN, ALIKE = "validation_selected", "best_test_epoch"
#: Names of the cells that train a start and that try a rate.
START, TRIAL = "start", "rate"
#: Best published accuracies by speed-up in multiply-adds, in %: DepGraph with sparse learning.
PUBLISHED = {"2.13": 93.77, "2.57": 93.64}
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
        "epochs": 200,
        "batch_size": 128,
        "ema_decay": 0.999,
        "loss": "logits",
        "precision": "bfloat16",
    },
    "cutting_share": 0.15,
    "recalibrate_batches": 40,
    "rounds": 40,
}
AT_ONCE: dict[str, Any] = {**BASE, "prune": {**BASE["prune"], "schedule": "one_shot"}, "cutting_share": 0.0}
RATES = (0.02, 0.05)
#: Trained here, either way of selection on the images that it trains on.
OWN_START: dict[str, Any] = {
    "weights": None,
    "train": {
        "epochs": 200,
        "batch_size": 128,
        "precision": "bfloat16",
        "recipe": {"name": "sgd_cosine", "lr": 0.1, "weight_decay": 5e-4},
    },
}


def quick() -> Iterator[Cell]:
    """One budget, one seed, one cut, one epoch with the true labels, both ways of selection."""
    recovery = {**BASE["recovery"], "epochs": 1, "ema_decay": 0.0, "loss": "labels"}
    yield from grid({**AT_ONCE, "recovery": recovery, "rounds": 10}, speeds=("2.13",), seeds=(0,), rates=RATES)


def cpu() -> Iterator[Cell]:
    """One budget, one seed, one cut, three epochs with a teacher, both ways of selection; in slices on two cores."""
    recovery = {**BASE["recovery"], "epochs": 3, "ema_decay": 0.0}
    yield from grid({**AT_ONCE, "recovery": recovery}, speeds=("2.13",), seeds=(0,), rates=RATES)


def full() -> Iterator[Cell]:
    """Both budgets, three seeds, 200 epochs, from starts that were trained here, one for either way of selection."""
    yield from grid({**BASE, **OWN_START}, speeds=tuple(PUBLISHED), seeds=(0, 1, 2), rates=(*RATES, 0.1))


def grid(
    base: Mapping[str, Any], *, speeds: Sequence[str], seeds: Sequence[int], rates: Sequence[float]
) -> Iterator[Cell]:
    """Yield the starts that are trained here, and for every budget the rates that are tried and both ways of selection.

    The first seed of the clean way takes the best of the rates that were tried with it; all others come after it.
    """
    starts: dict[str, tuple[str, ...]] = {CLEAN: (), ALIKE: ()}
    for kind in starts if base.get("train") else ():
        own = {name: base[name] for name in ("task", "builder", "weights", "train")}
        cell = Cell(name=f"{START}={kind}", settings={**own, "kind": kind, "part": START})
        starts[kind] = (cell.label,)
        yield cell
    for speed in speeds:
        clean, alike = ({**base, "speed": float(speed), "kind": kind} for kind in (CLEAN, ALIKE))
        tried = []
        for rate in rates:
            settings = {**clean, "rate": rate, "part": TRIAL}
            trial = Cell(name=f"{TRIAL}={speed},{rate:g}", seed=seeds[0], settings=settings, after=starts[CLEAN])
            tried.append(trial.label)
            yield trial
        first = Cell(name=f"{CLEAN}={speed}", seed=seeds[0], settings=clean, after=tuple(tried))
        yield first
        for seed in seeds[1:]:
            yield Cell(name=first.name, seed=seed, settings=clean, after=(*starts[CLEAN], first.label))
        for seed in seeds:
            yield Cell(name=f"{ALIKE}={speed}", seed=seed, settings=alike, after=(*starts[ALIKE], first.label))


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Train a start, try a rate, take the best of the tried ones, or take over the rate of the first seed."""
    settings, plain = cell.settings, task_of(cell.settings["task"])
    if trials := [found for label, found in bench.found.items() if label.startswith(f"{TRIAL}=")]:
        best = max(trials, key=lambda found: found["selected_on"])
        return {**best, "rates": {f"{found['rate']:g}": found["selected_on"] for found in trials}}
    task = plain if settings["kind"] == CLEAN else as_the_literature(plain)
    start = start_of(bench, settings, task)
    before = store_of(bench).get(start)
    uncut = bench.once("test-start", lambda: on_test(before.model.module, plain))
    if settings.get("part") == START:
        return {"test": {"start": uncut}, "selected_on": before.report["validation_accuracy"]}
    chosen = [found["rate"] for found in bench.found.values() if "rate" in found]
    rate = settings["rate"] if settings.get("part") == TRIAL else chosen[0]
    model = _cut(cell, bench, start, task, rate)
    found = _recovered(cell, bench, model, before.model, task, rate)
    return {
        "test": {"start": uncut, "tuned": bench.once("test", lambda: on_test(model.module, plain))},
        "selected_on": found.validation_accuracy,
        "best_epoch": found.best_epoch,
        "epochs": settings["recovery"]["epochs"],
        "rate": rate,
        **bench.once("costs", lambda: costs(before.model, model, rounds=settings["rounds"])),
    }


def _cut(cell: Cell, bench: Bench, start: Ref, task: Task, rate: float) -> Model:
    """Return a copy of what the stage cuts and recalibrates, with a share of the epochs between the cuts."""
    settings = cell.settings
    share, told = settings["cutting_share"], settings["recovery"]
    options = {
        **settings["prune"],
        "budget": f"macs={math.floor(1e6 / settings['speed']) / 1e6:.6f}",
        "recalibrate_batches": settings["recalibrate_batches"],
    }
    if share:
        recipe = {"name": "sgd_cosine", "lr": rate}
        options |= {"epochs": told["epochs"] * share, "recipe": recipe, "loss": told["loss"]}
    return cut_by_stage(bench, start, task, options, seed=cell.seed).model.copy()


def _recovered(cell: Cell, bench: Bench, model: Model, before: Model, task: Task, rate: float) -> FitReport:
    """Train in place for the rest of the epochs, under the uncut network as the teacher where the loss has one."""
    told, seed = cell.settings["recovery"], derived_seed(cell.seed, "recovery")
    config = FitConfig(
        recipe=RECIPES.bind("sgd_cosine", lr=rate),
        epochs=told["epochs"] * (1 - cell.settings["cutting_share"]),
        batch_size=told["batch_size"],
        ema_decay=told["ema_decay"],
        precision=told["precision"],
        seed=seed,
    )
    piece = LOSSES.from_json(told["loss"])
    has_teacher = piece.card.extra.get("has_teacher", True)
    loss = Distiller(piece, model, before, seed=seed) if has_teacher else None
    return fit(model.module, task, config, scratch=bench.scratch, what=cell.label, loss=loss)


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
    """Hold what was measured against what was published: first as selected on validation data."""
    sentences = []
    for speed in PUBLISHED:
        parts = [_part(table, kind, speed) for kind in (CLEAN, ALIKE) if table.of(f"{kind}={speed}")]
        if parts:
            sentences.append(f"At {speed}x fewer multiply-adds, {'; '.join(parts)}.")
    if not sentences:
        return Verdict(headline="No network is cut yet." if table.rows else "No cell is measured yet.")
    return Verdict(headline=sentences[0], sentences=(*sentences[1:], *_rates(table)), table=_markdown(table))


def _part(table: Table, kind: str, speed: str) -> str:
    """Return what one way of selection reached, what the cut cost there, and how that is to the published figure."""
    name = f"{kind}={speed}"
    before, after = (table.values(name, f"test.{state}") for state in ("start", "tuned"))
    found, loss = estimate(list(after.values())), paired(before, after)
    way = "best test epoch, as the literature selects" if kind == ALIKE else "selected on validation data"
    if kind == CLEAN and table.of(name)[0].cell.settings["weights"]:
        way += ", whose images the start was trained on"
    size = Estimate(abs(loss.mean), loss.half, loss.num).text(scale=100)
    return (
        f"{way}: {found.text(scale=100)} % ({found.num} seed{'s' if found.num > 1 else ''}), {size} points "
        f"{'below' if loss.mean >= 0 else 'above'} the uncut network's {100 * fmean(before.values()):.2f} %, "
        f"{_to_published(found, kind, speed)}"
    )


def _to_published(found: Estimate, kind: str, speed: str) -> str:
    """Return how a figure stands to the published one; within its interval nothing is decided."""
    gap, half = 100 * found.mean - PUBLISHED[speed], 100 * (found.half or 0.0)
    selected = "selected alike" if kind == ALIKE else "selected on test images"
    best = f"the best published {PUBLISHED[speed]:.2f} % ({selected})"
    if found.half is not None and abs(gap) <= half:
        return f"undecided against {best}"
    tail = "" if found.half is not None else ", of one seed, so without an interval"
    return f"{abs(gap):.2f} points {'above' if gap >= 0 else 'below'} {best}{tail}"


def _rates(table: Table) -> Iterator[str]:
    """Yield which rate was chosen for each budget, and by what."""
    for speed in PUBLISHED:
        for row in table.of(f"{CLEAN}={speed}"):
            if rates := row.result.get("rates"):
                tried = ", ".join(f"{100 * value:.2f} % at {rate}" for rate, value in rates.items())
                chosen = f"The rate {row['rate']:g} at {speed}x was chosen on validation data"
                yield f"{chosen}, seed {row.cell.seed}: {tried}."


def _markdown(table: Table) -> str:
    head = ("", "MACs", "uncut", "test accuracy", "rate", "epochs", "faster, batch 1", "batch 64", "published")
    told = {CLEAN: "selected on validation data", ALIKE: "best test epoch"}
    lines = []
    for kind, speed in _measured(table):
        name = f"{kind}={speed}"
        before, after = (percent(table, name, f"test.{state}") for state in ("start", "tuned"))
        row = table.of(name)[0]
        own = (factor(table, name, "macs"), before.partition(" ")[0], after, f"{row['rate']:g}", f"{row['epochs']:g}")
        lines.append((told[kind], *own, *speeds(table, name), f"{PUBLISHED[speed]:.2f}"))
    note = "All seeds of a line share one uncut network, whose own spread the interval leaves out."
    return f"Accuracy in %, mean ± 95 % interval over seeds. {note}\n\n{markdown(head, lines)}"


def _measured(table: Table) -> list[tuple[str, str]]:
    """Return way of selection and budget of every line that has a row: without starts and tries."""
    return [(kind, speed) for speed in PUBLISHED for kind in (CLEAN, ALIKE) if table.of(f"{kind}={speed}")]


def figures(table: Table) -> dict[str, str]:
    """Draw what was measured beside what was published."""
    dots = []
    for kind, speed in _measured(table):
        found = estimate(list(table.values(f"{kind}={speed}", "test.tuned").values()))
        color = "student" if kind == CLEAN else "cascade"
        dots.append(Dot.percent(f"{kind.replace('_', ' ')}, {speed}×", color, found))
    known = dict.fromkeys(speed for _, speed in _measured(table))
    dots += [Dot(label=f"best published, {speed}×", kind="teacher", value=PUBLISHED[speed]) for speed in known]
    return {"accuracy": dots_chart("ResNet-56 on CIFAR-10", "test accuracy, %", dots)}


STUDY = Study(
    title="How far does ResNet-56 on CIFAR-10 get at 2.1 and 2.55 times fewer multiply-adds?",
    ideas=(),
    presets={"quick": quick, "cpu": cpu, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
