"""A large network trained and pruned, against small ones trained from scratch, at equal cost of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compress.core.lineage import rebuild
from compress.core.model import BUILDERS, Model
from compress.core.random import seeded
from compress.core.task import Task
from compress.measure import cost_of
from compress.run import run_stage, task_of
from compress.studies import Bench, Cell, Study, Table, Verdict
from compress.studies.statistics import comparison, estimate
from compress.train.fit import fit
from compress.train.recipes import RECIPES
from compress.train.settings import FitConfig
from studies.charts import Dot, dots_chart
from studies.protocol import costs, data_of, on_test, store_of
from studies.tables import by_mean, factor, markdown, percent, speeds, spoken

PRUNED, NARROW, LONG, FRESH = "large_then_pruned", "narrow_same_steps", "narrow", "same_structure"
#: What is compared with what is large first: which weights it starts from, and how long it is trained.
TOLD = {
    PRUNED: "train the large one, prune, fine-tune",
    NARROW: "a narrower one from scratch, as many steps",
    LONG: "a narrower one from scratch, equal cost",
    FRESH: "the pruned structure from scratch, equal cost",
}
BASE: dict[str, Any] = {
    "task": "cifar10",
    "builder": {"name": "resnet_cifar", "depth": 20},
    "criterion": "taylor",
    "normalizer": "none",
    "batch_size": 128,
    "precision": "bfloat16",
    "tuning_rate": 0.02,
    "test_limit": 0,
    "rounds": 40,
}
RECIPE: dict[str, Any] = {"name": "sgd_one_cycle"}


def quick() -> Iterator[Cell]:
    """ResNet-14, 200 and 60 steps, 0.3 of the multiply-adds, two seeds, 2,000 test images."""
    base = {**BASE, "builder": {"name": "resnet_cifar", "depth": 14}, "test_limit": 2000, "rounds": 5}
    yield from grid(base, parts=(0.3,), lengths=((200, 60),), seeds=(0, 1))


def full() -> Iterator[Cell]:
    """ResNet-20, two parts of the multiply-adds, two lengths of training (20 + 5 and 80 + 20 epochs), three seeds."""
    yield from grid(BASE, parts=(0.5, 0.25), lengths=((7020, 1755), (28080, 7020)), seeds=(0, 1, 2))


def grid(
    base: Mapping[str, Any],
    *,
    parts: Sequence[float],
    lengths: Sequence[tuple[int, int]],
    seeds: Sequence[int],
) -> Iterator[Cell]:
    """Yield the four kinds for every part and length; the others come after the pruned one, whose cost they have."""
    for part in parts:
        for training, tuning in lengths:
            settings = {**base, "part": part, "training": training, "tuning": tuning}
            tail = f"={part},{training + tuning}"
            for seed in seeds:
                first = Cell(name=f"{PRUNED}{tail}", seed=seed, settings={**settings, "kind": PRUNED})
                yield first
                for kind in (NARROW, LONG, FRESH):
                    own = {**settings, "kind": kind}
                    yield Cell(name=f"{kind}{tail}", seed=seed, settings=own, after=(first.label,))


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Train one of the four kinds and judge it."""
    settings, store = cell.settings, store_of(bench)
    task = task_of(settings["task"])
    large = Model.build(BUILDERS.from_json(settings["builder"]), task.input, seed=cell.seed)
    if settings["kind"] == PRUNED:
        model, steps, ref = _pruned(cell, bench, task)
        spent = settings["training"] * _macs(large) + settings["tuning"] * _macs(model)
    else:
        (earlier,) = bench.found.values()
        ref = earlier["ref"]
        pruned = store.get(ref).model
        start = _start(settings, large, pruned, seed=cell.seed)
        is_equal = settings["kind"] != NARROW
        steps = round(earlier["spent"] / _macs(start)) if is_equal else settings["training"] + settings["tuning"]
        model, spent = _trained(cell, bench, start, task, steps), steps * _macs(start)
    return {
        "ref": ref,
        "steps": steps,
        "spent": spent,
        "test": {"tuned": bench.once("test", lambda: on_test(model.module, task, limit=settings["test_limit"]))},
        **bench.once("costs", lambda: costs(large, model, rounds=settings["rounds"])),
    }


def _macs(model: Model) -> float:
    return float(cost_of(model).as_json()["macs"])


def _pruned(cell: Cell, bench: Bench, task: Task) -> tuple[Model, int, str]:
    """Train the large network, prune it and fine-tune it, all by the stages."""
    settings, store = cell.settings, store_of(bench)
    sizes = {"batch_size": settings["batch_size"], "seed": cell.seed}
    training = {**sizes, "builder": settings["builder"], "max_steps": settings["training"], "recipe": RECIPE}
    large = run_stage("train", training, {}, task, store).entry
    tuning = {
        **sizes,
        "budget": f"macs={settings['part']}",
        "criterion": settings["criterion"],
        "normalizer": settings["normalizer"],
        "max_steps": settings["tuning"],
        "recipe": {"name": "sgd_cosine", "lr": settings["tuning_rate"]},
    }
    entry = run_stage("prune", tuning, {"model": large.ref}, task, store).entry
    return entry.model, settings["training"] + settings["tuning"], entry.ref


def _start(settings: Mapping[str, Any], large: Model, pruned: Model, *, seed: int) -> Model:
    """Return the small network with fresh weights: the pruned structure, or the widest that costs no more."""
    if settings["kind"] == FRESH:
        with seeded(seed, "build"):
            return Model(rebuild(pruned.lineage).eval(), pruned.input, pruned.lineage)
    piece = BUILDERS.from_json(settings["builder"])
    most = piece.options.get("width", piece.card.options["width"].default)
    for width in range(most, 0, -1):
        model = Model.build(BUILDERS.from_json({**piece.as_json(), "width": width}), large.input, seed=seed)
        if _macs(model) <= settings["part"] * _macs(large):
            return model
    raise ValueError(f"no width of {piece} costs {settings['part']:g} of the multiply-adds or less.")


def _trained(cell: Cell, bench: Bench, start: Model, task: Task, steps: int) -> Model:
    config = FitConfig(
        recipe=RECIPES.from_json(RECIPE),
        max_steps=steps,
        batch_size=cell.settings["batch_size"],
        precision=cell.settings["precision"],
        seed=cell.seed,
    )
    fit(start.module, task, config, scratch=bench.scratch, what=cell.label)
    return start


def conclude(table: Table) -> Verdict:
    """Compare what is large first with each of the others, at each part and length."""
    sentences = []
    for tail in _tails(table):
        own = table.values(f"{PRUNED}{tail}", "test.tuned")
        for kind in (LONG, FRESH, NARROW):
            other = table.values(f"{kind}{tail}", "test.tuned")
            if set(own) & set(other):
                names = (spoken(PRUNED), f"{spoken(kind)} from scratch")
                sentences.append(comparison(names[0], own, names[1], other, where=_said(tail)))
    if not sentences:
        return Verdict(headline=f"{len(table.rows)} cells are measured, too few to compare.")
    headline = sentences[0][:1].upper() + sentences[0][1:]
    return Verdict(headline=headline, sentences=tuple(sentences[1:]), table=_markdown(table))


def _tails(table: Table) -> list[str]:
    return list(dict.fromkeys(f"={name.partition('=')[2]}" for name in table.names))


def _said(tail: str) -> str:
    part, _, steps = tail.removeprefix("=").partition(",")
    return f"at {1 / float(part):.1f}x fewer multiply-adds and the cost of {steps} steps"


def _markdown(table: Table) -> str:
    head = ("", "test accuracy", "steps", "training, 10⁹ × multiply-adds", "MACs", "faster, batch 1", "batch 64")
    lines = []
    for tail in _tails(table):
        names = [name for name in table.names if name.endswith(tail)]
        for name in by_mean({name: table.values(name, "test.tuned") for name in names}):
            row = table.of(name)[0]
            spent = 3 * row["spent"] * row.cell.settings["batch_size"] / 1e9
            own = (percent(table, name, "test.tuned"), f"{row['steps']:,}", f"{spent:,.0f}")
            lines.append((TOLD[name.partition("=")[0]], *own, factor(table, name, "macs"), *speeds(table, name)))
    return f"Accuracy in %, mean ± 95 % interval over seeds.\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw the accuracies."""
    dots = []
    for tail in _tails(table):
        for name in (name for name in table.names if name.endswith(tail)):
            found = estimate(list(table.values(name, "test.tuned").values()))
            kind = "student" if name.startswith(PRUNED) else "int8"
            half = None if found.half is None else 100 * found.half
            dots.append(Dot(label=f"{spoken(name)}, {tail[1:]}", kind=kind, value=100 * found.mean, half=half))
    return {"accuracy": dots_chart("Pruned (blue) and from scratch", "test accuracy, %", dots)}


STUDY = Study(
    title="Is it worth training a large network only to prune it?",
    ideas=("D6",),
    presets={"quick": quick, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
