"""A large network trained and pruned, against small ones trained from scratch, at equal cost of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from torch import nn

from compress.core.lineage import rebuild
from compress.core.model import BUILDERS, Model
from compress.core.random import derived_seed, seeded
from compress.core.task import Task
from compress.measure import cost_of
from compress.run import run_stage, task_of
from compress.studies import Bench, Cell, Study, Table, Verdict
from compress.studies.statistics import comparison, estimate, paired
from compress.train.fit import fit
from compress.train.recipes import RECIPES
from compress.train.settings import FitConfig
from studies.charts import Dot, dots_chart
from studies.protocol import by_seed, costs, data_of, on_test, store_of
from studies.tables import by_mean, caption, factor, markdown, percent, speeds, spoken

PRUNED, NARROW, LONG, FRESH = "large_then_pruned", "narrow_same_steps", "narrow_equal_cost", "structure_equal_cost"
#: The four kinds in sentences and in the table.
SAID = {
    PRUNED: "large then pruned",
    LONG: "narrow from scratch at equal cost",
    FRESH: "the pruned structure from scratch at equal cost",
    NARROW: "narrow from scratch for as many steps",
}
#: What is compared; the first pair answers the question, the next two tell what weights and widths are worth.
PAIRS = ((PRUNED, LONG), (PRUNED, FRESH), (FRESH, LONG), (PRUNED, NARROW))
BASE: dict[str, Any] = {
    "task": "cifar10",
    "builder": {"name": "resnet_cifar", "depth": 20},
    "prune": {
        "criterion": "magnitude",
        "normalizer": "max",
        "allocator": "global",
        "schedule": "one_shot",
        "reach": "inside",
        "compensation": "least_squares",
        "score_batches": 16,
        "recalibrate_batches": 20,
    },
    "batch_size": 128,
    "precision": "bfloat16",
    "large_rate": 0.1,
    "rates": {"tuning": [0.02, 0.05], "scratch": [0.1, 0.2]},
    "test_limit": 0,
    "rounds": 40,
}
#: Multiply-adds of a training step in those of a forward pass: the backward pass counts twice.
PASSES_OF_A_STEP = 3


def quick() -> Iterator[Cell]:
    """ResNet-14 and width 8, 200 + 60 steps, one rate, two seeds, 2,000 test images."""
    rates = {"tuning": [0.05], "scratch": [0.1]}
    base = {**BASE, "builder": {"name": "resnet_cifar", "depth": 14}, "rates": rates, "test_limit": 2000, "rounds": 5}
    yield from grid(base, widths=(8,), lengths=((200, 60),), seeds=(0, 1))


def cpu() -> Iterator[Cell]:
    """ResNet-20 and width 8, 5 + 1.25 epochs, three seeds."""
    yield from grid(BASE, widths=(8,), lengths=((1755, 439),), seeds=(0, 1, 2))


def full() -> Iterator[Cell]:
    """ResNet-20, widths 11 and 8, two lengths of training (20 + 5 and 80 + 20 epochs), three seeds."""
    yield from grid(BASE, widths=(11, 8), lengths=((7020, 1755), (28080, 7020)), seeds=(0, 1, 2))


def grid(
    base: Mapping[str, Any],
    *,
    widths: Sequence[int],
    lengths: Sequence[tuple[int, int]],
    seeds: Sequence[int],
) -> Iterator[Cell]:
    """Yield the four kinds for every width and length, those of the first seed in front.

    The other kinds come after the pruned one of their seed, whose cost they have, and the later seeds of a kind after
    its first one, whose learning rate they take over.
    """
    cells = []
    for width in widths:
        for training, tuning in lengths:
            settings = {**base, "width": width, "training": training, "tuning": tuning}
            tail = f"=width{width},{training}+{tuning}"
            for kind in SAID:
                rates = base["rates"]["tuning" if kind == PRUNED else "scratch"]
                own = {**settings, "kind": kind, "rates": rates}
                for seed in seeds:
                    before = [] if seed == seeds[0] else [f"{kind}{tail}@{seeds[0]}"]
                    before += [] if kind == PRUNED else [f"{PRUNED}{tail}@{seed}"]
                    cells.append(Cell(name=f"{kind}{tail}", seed=seed, settings=own, after=tuple(before)))
    yield from by_seed(cells)


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Train one of the four kinds, at the learning rate that the first seed chose, and judge it."""
    settings = cell.settings
    task = task_of(settings["task"])
    large, narrow = (_built(settings, task, options, seed=cell.seed) for options in ({}, {"width": settings["width"]}))
    rates = [found["rate"] for label, found in bench.found.items() if label.startswith(f"{cell.name}@")]
    rates = rates or settings["rates"]
    if settings["kind"] == PRUNED:
        model, found = _pruned(cell, bench, task, rates, part=_macs(narrow) / _macs(large))
        found["spent"] = _spent_on_pruning(settings, _macs(large), _macs(model))
    else:
        model, found = _from_scratch(cell, bench, task, rates, narrow)
    test = bench.once("test", lambda: on_test(model.module, task, limit=settings["test_limit"]))
    size = bench.once("costs", lambda: costs(large, model, rounds=settings["rounds"]))
    return {**found, "test": {"tuned": test}, **size}


def _built(settings: Mapping[str, Any], task: Task, options: Mapping[str, Any], *, seed: int) -> Model:
    return Model.build(BUILDERS.from_json({**settings["builder"], **options}), task.input, seed=seed)


def _macs(model: Model) -> float:
    return float(cost_of(model).as_json()["macs"])


def _spent_on_steps(settings: Mapping[str, Any], steps: int, macs: float) -> float:
    """Return the multiply-adds of `steps` batches, forward and backward."""
    return PASSES_OF_A_STEP * settings["batch_size"] * steps * macs


def _spent_on_pruning(settings: Mapping[str, Any], large: float, pruned: float) -> float:
    """Return the multiply-adds of training, pruning and fine-tuning, from those of one input.

    Compensation and batch-norm statistics are forward passes. Judging, which all kinds need, is left out.
    """
    steps = _spent_on_steps(settings, settings["training"], large) + _spent_on_steps(
        settings, settings["tuning"], pruned
    )
    options = settings["prune"]
    passes = options["score_batches"] * large + options["recalibrate_batches"] * pruned
    return steps + float(settings["batch_size"] * passes)


def _pruned(
    cell: Cell, bench: Bench, task: Task, rates: Sequence[float], *, part: float
) -> tuple[Model, dict[str, Any]]:
    """Train the large network, prune it and fine-tune it at each rate, all by the stages."""
    settings, store = cell.settings, store_of(bench)
    sizes = {"batch_size": settings["batch_size"], "precision": settings["precision"]}
    training = {
        **sizes,
        "builder": settings["builder"],
        "max_steps": settings["training"],
        "recipe": {"name": "sgd_one_cycle", "lr": settings["large_rate"]},
        "seed": cell.seed,
    }
    large = run_stage("train", training, {}, task, store).entry
    # With the seed of the training, fine-tuning would see its first batches again, image by image.
    tuning = {
        **sizes,
        **settings["prune"],
        "budget": f"macs={part!r}",
        "max_steps": settings["tuning"],
        "seed": derived_seed(cell.seed, "tuning"),
    }
    entries = {}
    for rate in rates:
        recipe = {"name": "sgd_cosine", "lr": rate}
        entries[rate] = run_stage("prune", {**tuning, "recipe": recipe}, {"model": large.ref}, task, store).entry
    judged = {rate: entries[rate].report["validation_accuracy"] for rate in rates}
    best = max(rates, key=lambda rate: judged[rate])
    steps = settings["training"] + settings["tuning"]
    return entries[best].model, {"ref": entries[best].ref, "steps": steps, **_chosen(judged, best)}


def _from_scratch(
    cell: Cell, bench: Bench, task: Task, rates: Sequence[float], narrow: Model
) -> tuple[Model, dict[str, Any]]:
    """Train a small network at each rate, for as long as its kind says."""
    settings = cell.settings
    _, _, tail = cell.label.partition("=")
    earlier = bench.found[f"{PRUNED}={tail}"]
    start = narrow
    if settings["kind"] == FRESH:
        start = fresh(store_of(bench).get(earlier["ref"]).model, seed=cell.seed)
    steps = settings["training"] + settings["tuning"]
    if settings["kind"] != NARROW:
        steps = round(earlier["spent"] / _spent_on_steps(settings, 1, _macs(start)))
    models, judged = {}, {}
    for rate in rates:
        models[rate] = start.copy()
        config = FitConfig(
            recipe=RECIPES.bind("sgd_one_cycle", lr=rate),
            max_steps=steps,
            batch_size=settings["batch_size"],
            precision=settings["precision"],
            seed=cell.seed,
        )
        what = f"{cell.label} at {rate:g}"
        judged[rate] = fit(models[rate].module, task, config, scratch=bench.scratch, what=what).validation_accuracy
    best = max(rates, key=lambda rate: judged[rate])
    spent = _spent_on_steps(settings, steps, _macs(start))
    return models[best], {"steps": steps, "spent": spent, **_chosen(judged, best)}


def _chosen(judged: Mapping[float, float], best: float) -> dict[str, Any]:
    rates = {f"{rate:g}": value for rate, value in judged.items()}
    return {"rate": best, "rates": rates, "validation": {"tuned": judged[best]}}


def fresh(pruned: Model, *, seed: int) -> Model:
    """Return the structure of a pruned network with weights of its own, drawn by the builder's rule.

    The weights that its large network started from have no part in them: neither their random numbers nor their
    spread, which would be that of wider layers.
    """
    with seeded(seed, "fresh"):
        module = rebuild(pruned.lineage)
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
    return Model(module.eval(), pruned.input, pruned.lineage)


def conclude(table: Table) -> Verdict:
    """Compare the kinds, pair by pair, at each width and length."""
    sentences: dict[tuple[str, str], list[str]] = {pair: [] for pair in PAIRS}
    for tail in _tails(table):
        for (a, b), own in sentences.items():
            first, second = (table.values(f"{kind}{tail}", "test.tuned") for kind in (a, b))
            if set(first) & set(second):
                own.append(comparison(SAID[a], first, SAID[b], second, where=_where(table, tail)))
    told = [sentence for own in sentences.values() for sentence in own]
    if not sentences[PAIRS[0]]:
        headline = f"{len(table.rows)} cells are measured, too few to compare with the narrower network at equal cost."
        return Verdict(headline=headline, sentences=tuple(told), table=_markdown(table) if table.rows else "")
    if len(sentences[PAIRS[0]]) > 1:
        return Verdict(headline=_headline(table), sentences=tuple(told), table=_markdown(table))
    return Verdict(headline=f"{told[0][:1].upper()}{told[0][1:]}", sentences=tuple(told[1:]), table=_markdown(table))


def _headline(table: Table) -> str:
    """Return the differences that answer the question, each with its interval: none of them stands for the others."""
    gaps = []
    for tail in _tails(table):
        first, second = (table.values(f"{kind}{tail}", "test.tuned") for kind in PAIRS[0])
        if set(first) & set(second):
            gap = paired(first, second)
            seeds = "1 seed, so no interval" if gap.half is None else f"{gap.num} seeds"
            gaps.append(f"{gap.text(scale=100)} {_where(table, tail)} ({seeds})")
    a, b = (SAID[kind] for kind in PAIRS[0])
    return f"{a[:1].upper()}{a[1:]} minus {b}, in points: {'; '.join(gaps)}."


def _tails(table: Table) -> list[str]:
    return list(dict.fromkeys(f"={name.partition('=')[2]}" for name in table.names))


def _where(table: Table, tail: str) -> str:
    """Return how small the networks of a width and length are and how long the large one is trained and tuned."""
    factors = [value for kind in SAID for value in table.values(f"{kind}{tail}", "macs").values()]
    training, _, tuning = tail.partition(",")[2].partition("+")
    return f"at {fmean(factors):.1f}x fewer multiply-adds, {int(training):,} + {int(tuning):,} steps"


def _markdown(table: Table) -> str:
    head = ("", "test accuracy", "steps", "rate", "training, 10¹² multiply-adds", "MACs", "faster, batch 1", "batch 64")
    lines = []
    for tail in _tails(table):
        names = [name for name in table.names if name.endswith(tail)]
        for name in by_mean({name: table.values(name, "test.tuned") for name in names}):
            kind, row = name.partition("=")[0], table.of(name)[0]
            steps, spent = (fmean(table.values(name, key).values()) for key in ("steps", "spent"))
            own = (percent(table, name, "test.tuned"), f"{steps:,.0f}", f"{row['rate']:g}", f"{spent / 1e12:,.1f}")
            label = f"{SAID[kind]}, {_where(table, tail)}"
            lines.append((label, *own, factor(table, name, "macs"), *speeds(table, name)))
    return f"{caption(table)} The other numbers are means over seeds.\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw the accuracies."""
    dots = []
    for tail in _tails(table):
        for name in (name for name in table.names if name.endswith(tail)):
            found = estimate(list(table.values(name, "test.tuned").values()))
            kind = "student" if name.startswith(PRUNED) else "int8"
            dots.append(Dot.percent(f"{spoken(name)}, {tail[1:]}", kind, found))
    return {"accuracy": dots_chart("Pruned (blue) and from scratch", "test accuracy, %", dots)}


STUDY = Study(
    title="Is it worth training a large network only to prune it?",
    ideas=("D6",),
    presets={"quick": quick, "cpu": cpu, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
