"""Every criterion under one protocol, and Torch-Pruning's own pruner beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from compress.core.model import Model
from compress.core.task import Task
from compress.prune.criteria import CRITERIA
from compress.run import task_of
from compress.studies import Bench, Cell, Study, Table, Verdict
from compress.studies.statistics import best_of, comparison, estimate
from studies.charts import Dot, dots_chart
from studies.ideas import ids_of
from studies.protocol import (
    RECOVERY,
    RESNET56,
    by_seed,
    costs,
    cut_alone,
    cut_by_stage,
    data_of,
    on_validation,
    recalibrated,
    recovery,
    seeded_cells,
    start_of,
    store_of,
)
from studies.tables import by_mean, caption, factor, markdown, percent, speeds, spoken
from studies.torch_pruning_side import IMPORTANCES, Way, cut_by_torch_pruning

#: Part of the multiply-adds that stays: 2.1 times fewer.
MACS = 0.476
BASE: dict[str, Any] = {
    **RESNET56,
    **RECOVERY,
    "macs": MACS,
    "score_batches": 16,
    "choose_images": 2000,
    "test_limit": 0,
    "rounds": 20,
}
OUR_WAYS = (
    *({"normalizer": name, "reach": "inside"} for name in ("none", "mean", "max")),
    {"normalizer": "none", "reach": "all"},
)
PLAIN = "magnitude_uncompensated"
TP_WAYS: tuple[dict[str, Any], ...] = tuple(
    {"reach": reach, "steps": steps} for reach in ("all", "inside") for steps in (1, 400)
)
THEIRS = "tp_"
SEEDS = (0, 1, 2)


def quick() -> Iterator[Cell]:
    """The default, two criteria and two of Torch-Pruning's importances, one seed and rate, 2,000 test images."""
    base = {**BASE, "rates": [0.01], "score_batches": 8, "choose_images": 500, "test_limit": 2000, "rounds": 10}
    yield Cell(name="default", settings={**base, "ways": [{}]})
    for name, normalizer in (("magnitude", "max"), ("taylor", "mean"), ("random", "none")):
        way = {"criterion": name, "normalizer": normalizer, "reach": "inside"}
        yield Cell(name=name, settings={**base, "ways": [way]})
    for name in ("magnitude", "taylor"):
        yield Cell(name=f"{THEIRS}{name}", settings={**base, "importance": name, "ways": [TP_WAYS[3]]})


def full() -> Iterable[Cell]:
    """All criteria and all importances, three seeds; seed 0 chooses normalizer, way and learning rate, and is timed."""
    return by_seed(_all())


def _all() -> Iterator[Cell]:
    yield from seeded_cells("default", {**BASE, "ways": [{}]}, SEEDS)
    uncompensated = {"criterion": "magnitude", "normalizer": "max", "reach": "inside", "compensation": "none"}
    yield from seeded_cells(PLAIN, {**BASE, "ways": [uncompensated]}, SEEDS)
    for name in sorted(CRITERIA):
        ways = [{"criterion": name, **way} for way in OUR_WAYS]
        yield from seeded_cells(name, {**BASE, "ways": ways}, SEEDS)
    for name in IMPORTANCES:
        ways = [way for way in TP_WAYS if name != "hessian" or way["steps"] == 1]
        yield from seeded_cells(f"{THEIRS}{name}", {**BASE, "importance": name, "ways": ways}, SEEDS)


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Cut in every way, choose the best by validation accuracy after recalibration, then recover and judge it."""
    settings = cell.settings
    task = task_of(settings["task"])
    start = store_of(bench).get(start_of(bench, settings, task)).model
    ways, rates = settings["ways"], settings["rates"]
    for earlier in bench.found.values():
        ways, rates = [earlier["way"]], [earlier["rate"]]
    chosen = bench.once("ways", lambda: _tried(cell, bench, start, task, ways))
    best = ways[max(range(len(ways)), key=lambda index: chosen[index])]
    cut = _cut(cell, bench, start, task, best)
    final, found = recovery(bench, cut, task, settings, seed=cell.seed, rates=rates)
    rounds = 0 if bench.found else settings["rounds"]
    size = bench.once("costs", lambda: costs(start, final, rounds=rounds))
    return {"way": best, "ways": list(zip(ways, chosen, strict=True)), **found, **size}


def _tried(cell: Cell, bench: Bench, start: Model, task: Task, ways: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the validation accuracy of every way; a single one needs no choice."""
    if len(ways) == 1:
        return [0.0]
    models = (_cut(cell, bench, start, task, way) for way in ways)
    plain = (recalibrated(model, task, cell.settings, seed=cell.seed) for model in models)
    return [on_validation(model.module, task, limit=cell.settings["choose_images"]) for model in plain]


def _cut(cell: Cell, bench: Bench, start: Model, task: Task, way: Mapping[str, Any]) -> Model:
    settings = cell.settings
    sizes = {"batch_size": settings["batch_size"]}
    if importance := settings.get("importance"):
        sizes["batches"] = settings["score_batches"] if importance != "hessian" else 1
        return cut_by_torch_pruning(start, task, importance, settings["macs"], Way(**way), **sizes, seed=cell.seed)
    options = {**way, "budget": f"macs={settings['macs']}", "score_batches": settings["score_batches"], **sizes}
    if "criterion" not in way:
        return cut_by_stage(bench, start_of(bench, settings, task), task, options, seed=cell.seed).model
    if "seed" in CRITERIA[way["criterion"]].options:
        options["criterion"] = {"name": way["criterion"], "seed": cell.seed}
    return cut_alone(start, task, options, seed=cell.seed, scratch=bench.scratch)


def conclude(table: Table) -> Verdict:
    """Compare the two best, the default with the best of the other side, and each criterion with magnitude."""
    where = _where(table)
    tuned = {name: table.values(name, "test.tuned") for name in table.names}
    judged = {name: table.values(name, "validation.tuned") for name in table.names}
    ours = {name: values for name, values in judged.items() if not name.startswith(THEIRS) and name != "default"}
    theirs = {name: values for name, values in judged.items() if name.startswith(THEIRS)}
    sentences = []
    if ours and theirs:
        best, other = best_of(ours), best_of(theirs)
        sentences.append(comparison(best, tuned[best], spoken(other), tuned[other], where=where))
        if "default" in tuned:
            sentences.append(comparison("the default", tuned["default"], spoken(other), tuned[other], where=where))
        sentences += _same_criterion(tuned, where)
    against = {
        name: comparison(name, tuned[name], "magnitude", tuned["magnitude"], where=where)
        for name in ours
        if "magnitude" in ours and name != "magnitude" and set(tuned[name]) & set(tuned["magnitude"])
    }
    headline = sentences[0] if sentences else f"{len(table.rows)} cells are measured, too few to compare the two sides."
    return Verdict(
        headline=headline,
        sentences=(*sentences[1:], *against.values()),
        table=_markdown(table),
        ideas=_by_idea(against, judged),
    )


def _same_criterion(tuned: Mapping[str, dict[int, float]], where: str) -> list[str]:
    pairs = [(name, f"{THEIRS}{name}") for name in tuned if f"{THEIRS}{name}" in tuned]
    return [comparison(f"our {a} with compensation", tuned[a], spoken(b), tuned[b], where=where) for a, b in pairs]


def _by_idea(against: Mapping[str, str], judged: Mapping[str, dict[int, float]]) -> dict[str, str]:
    """Return, by idea, the sentences on its criteria, in the order of validation data."""
    found: dict[str, list[str]] = {}
    for name in (name for name in against if name in CRITERIA):
        for idea in ids_of(CRITERIA[name].idea):
            found.setdefault(idea, []).append(name)
    order = by_mean(judged)
    return {idea: " ".join(against[name] for name in sorted(names, key=order.index)) for idea, names in found.items()}


def _where(table: Table) -> str:
    factors = [row["macs"] for row in table.rows]
    return f"at {fmean(factors):.1f}x fewer multiply-adds" if factors else ""


def _markdown(table: Table) -> str:
    head = ("", "after the cut", "recalibrated", "fine-tuned", "rate", "MACs", "faster, batch 1", "batch 64", "way")
    lines = []
    for name in by_mean({name: table.values(name, "test.tuned") for name in table.names}):
        row = table.of(name)[0]
        states = [percent(table, name, f"test.{state}") for state in ("cut", "recalibrated", "tuned")]
        way = ", ".join(f"{key} {value}" for key, value in row["way"].items() if key != "criterion")
        macs = factor(table, name, "macs")
        lines.append((spoken(name), *states, f"{row['rate']:g}", macs, *speeds(table, name), way))
    return f"{caption(table)}\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw the accuracy after fine-tuning, and hollow that after recalibration."""
    dots = []
    for name in table.names:
        found = estimate(list(table.values(name, "test.tuned").values()))
        before = estimate(list(table.values(name, "test.recalibrated").values()))
        kind = "int8" if name.startswith(THEIRS) else "teacher" if name == "default" else "student"
        dots.append(Dot.percent(spoken(name), kind, found, (before.mean,)))
    dots.sort(key=lambda dot: -dot.value)
    title = f"Fine-tuned (full) and recalibrated (hollow) {_where(table)}"
    return {"accuracy": dots_chart(title, "test accuracy, %", dots)}


STUDY = Study(
    title="Which criterion keeps most accuracy at 2.1 times fewer multiply-adds?",
    ideas=("A5", "C3", "C4", "C5", "C6", "C7", "C8", "C9"),
    presets={"quick": quick, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
