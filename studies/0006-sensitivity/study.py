"""How sensitive each layer is to losing channels: across starts, across data sets, and at different speeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, product
from statistics import fmean
from typing import Any

import torch
from torch import nn

from compress.core.model import Model
from compress.core.task import Task
from compress.graph.groups import trace_groups
from compress.graph.stats import gather
from compress.graph.surgery import cut, plan_from_kept
from compress.prune.allocators.family import best
from compress.prune.criteria import CRITERIA
from compress.prune.sensitivity import Curve, agreement, spearman
from compress.run import run_stage, task_of
from compress.studies import Bench, Cell, Row, Study, Table, Verdict
from compress.train.fit import fit
from compress.train.recalibrate import recalibrate_batch_norm
from compress.train.recipes import RECIPES
from compress.train.scoring import logits_of
from compress.train.settings import FitConfig
from studies.charts import Line, heat_chart, lines_chart
from studies.protocol import data_of, fastest_device, start_of, store_of

DATA = ("cifar10", "cifar100", "fashion_mnist", "mnist")
KINDS = dict(zip(DATA, ("student", "cascade", "int8", "teacher"), strict=True))
SPEED = "speed-"
BASE: dict[str, Any] = {
    "builder": {"name": "resnet_cifar", "depth": 20},
    "train": {"epochs": 60, "batch_size": 128, "precision": "bfloat16", "recipe": "sgd_one_cycle"},
    "curves": {"ratios": [0.75, 0.5, 0.25, 0.1], "recalibrate_batches": 8, "batch_size": 64, "validation_limit": 0},
}
#: A group is cut to `ratio` in 1 or `cuts` cuts, with as many steps of training in all.
PACE: dict[str, Any] = {
    "ratio": 0.25,
    "cuts": 4,
    "steps": 64,
    "batch_size": 128,
    "precision": "bfloat16",
    "rate": 0.01,
    "images": 0,
}


def quick() -> Iterator[Cell]:
    """A smaller network, trained for 150 steps, from two starts; the speed of pruning on one of them."""
    base = {
        "builder": {"name": "resnet_cifar", "depth": 14},
        "train": {"max_steps": 150, "batch_size": 128, "precision": "bfloat16", "recipe": "sgd_one_cycle"},
        "curves": {"ratios": [0.5, 0.25], "recalibrate_batches": 4, "batch_size": 64, "validation_limit": 500},
    }
    yield from grid(base, PACE | {"steps": 16, "images": 500}, seeds=(0, 1), paced=(("cifar10", 0),))


def full() -> Iterator[Cell]:
    """ResNet-20, trained to the end, from three starts."""
    yield from grid(BASE, PACE, seeds=(0, 1, 2), paced=tuple(product(DATA, (0, 1, 2))))


def grid(
    base: Mapping[str, Any],
    pace: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    paced: Sequence[tuple[str, int]],
    data: Sequence[str] = DATA,
) -> Iterator[Cell]:
    """Return a cell for every data set and start, and behind them those that look at the speed."""
    cells = [Cell(name=name, seed=seed, settings={**base, "task": name}) for name in data for seed in seeds]
    yield from cells
    for cell in cells:
        if (cell.name, cell.seed) in paced:
            settings = {**cell.settings, "pace": dict(pace)}
            yield Cell(name=f"{SPEED}{cell.name}", seed=cell.seed, settings=settings, after=(cell.label,))


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Train, then measure the curves; or cut each group at two speeds."""
    settings, store = cell.settings, store_of(bench)
    task = task_of(settings["task"])
    start = start_of(bench, settings, task, cell.seed)
    if "pace" in settings:
        return _paced(bench, store.get(start).model, task, settings["pace"], cell.seed)
    report = run_stage("sensitivity", settings["curves"], {"model": start}, task, store).entry.report
    keys = ("group", "kind", "kept", "ratios", "losses", "accuracies", "macs", "params", "keys")
    curves = [{key: curve[key] for key in keys} for curve in report["curves"]]
    return {"accuracy": report["validation_accuracy"], "curves": curves}


def _paced(bench: Bench, model: Model, task: Task, pace: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return, by group, the validation loss after a cut at once and after a slow one, both trained equally long."""
    groups = [group for group in trace_groups(model.module, model.input.example()) if group.num_channels > 1]
    lost = partial(_lost, model.module, task, pace, seed, bench)
    losses = {}
    for name in (group.name for group in groups):
        losses[name] = {
            speed: bench.once(f"{name}-{speed}", partial(lost, name, num_cuts))
            for speed, num_cuts in (("at_once", 1), ("slow", pace["cuts"]))
        }
    return {"whole": bench.once("whole", partial(lost, "", 1)), "losses": losses}


def _lost(
    module: nn.Module, task: Task, pace: Mapping[str, Any], seed: int, bench: Bench, name: str, num_cuts: int
) -> float:
    """Cut a copy's group `name` (none for ""), in `num_cuts` cuts with training behind each, and return the loss."""
    steps = pace["steps"] // num_cuts
    config = FitConfig(
        recipe=RECIPES.bind("sgd_cosine", lr=pace["rate"]),
        max_steps=steps,
        batch_size=pace["batch_size"],
        precision=pace["precision"],
        select="last",
        seed=seed,
    )
    x_BCHW, first = task.input.example(), 0
    for number in range(1, num_cuts + 1):
        if name:
            groups = trace_groups(module, x_BCHW, is_verified=False)
            group = next(group for group in groups if group.name == name)
            first = first or group.num_channels
            count = max(1, round(first * (1 - (1 - pace["ratio"]) * number / num_cuts)))
            scores_C = CRITERIA.bind("magnitude")(gather(module, groups, ("weight",))[name])
            module = cut(module, plan_from_kept(groups, {name: best(scores_C, count)}))
            with fastest_device(module):
                recalibrate_batch_norm(module, task, num_batches=4, batch_size=pace["batch_size"], seed=seed)
        else:
            module = cut(module, {"kind": "cut", "dropped": [], "layers": {}})
        fit(module, task, config, scratch=bench.scratch, what=f"{name or 'whole'} {number} of {num_cuts}")
    with fastest_device(module), torch.inference_mode():
        logits_NC, labels_N = logits_of(module, task, "validation", limit=pace["images"] or None)
    return float(task.loss(logits_NC, labels_N))


def conclude(table: Table) -> Verdict:
    """Correlate the damage by group between starts, between data sets, and between speeds."""
    same, other = pairs_of(table)
    sentences = []
    if same and other:
        gap = fmean(same) - fmean(other)
        is_clear = min(same) > max(other)
        tail = "without overlap" if is_clear else "and the two overlap"
        sentences.append(
            f"Which layers are sensitive is shared by networks from other starts (rank correlation {_span(same)}) "
            f"{'more than' if gap > 0 else 'no more than'} by networks on other data ({_span(other)}), {tail}."
        )
    elif same:
        sentences.append(f"Networks from other starts agree by a rank correlation of {_span(same)}.")
    sources = {row.cell.label: row for row in table.rows if "curves" in row.result}
    paced = [
        _speeds(row, source)
        for row in table.rows
        if "losses" in row.result and (source := sources.get(f"{row.cell.name.removeprefix(SPEED)}@{row.cell.seed}"))
    ]
    if paced:
        gains = [one["gain"] for one in paced]
        sentences += [
            f"Cutting slowly instead of at once changes the loss by {fmean(gains):+.3f} on average over layers, at "
            f"equal training; the two put the layers into the same order with a rank correlation of "
            f"{_span([one['agree'] for one in paced], 'networks')}.",
            f"The curve without any training foretells the loss after training with a rank correlation of "
            f"{_span([one['foretold'] for one in paced], 'networks')}.",
        ]
    if not sentences:
        return Verdict(headline=f"{len(table.rows)} cells are measured, too few to compare.")
    return Verdict(headline=sentences[0], sentences=tuple(sentences[1:]), table=_markdown(table))


def pairs_of(table: Table) -> tuple[list[float], list[float]]:
    """Return the rank correlations of all pairs of networks on the same data, and on different data."""
    rows = [row for row in table.rows if "curves" in row.result]
    same: list[float] = []
    other: list[float] = []
    for one, two in combinations(rows, 2):
        if (value := correlation(one, two)) is not None:
            (same if one.cell.name == two.cell.name else other).append(value)
    return same, other


def correlation(one: Row, two: Row) -> float | None:
    """Return the rank correlation of the damage by group of two networks."""
    curves = [[Curve.from_json(curve) for curve in row["curves"]] for row in (one, two)]
    return agreement(*curves)["spearman"]


def _speeds(row: Row, source: Row) -> dict[str, float]:
    """Compare the two speeds of one network, and the faster one with its curves."""
    losses = row["losses"]
    ratio = row.cell.settings["pace"]["ratio"]
    damage = {curve["group"]: _at(curve, ratio) for curve in source["curves"] if curve["kind"] == "channels"}
    names = [name for name in losses if name in damage]
    at_once, slow = ([losses[name][speed] for name in names] for speed in ("at_once", "slow"))
    return {
        "gain": fmean(slow) - fmean(at_once),
        "agree": spearman(at_once, slow),
        "foretold": spearman([damage[name] for name in names], at_once),
    }


def _at(curve: Mapping[str, Any], ratio: float) -> float:
    """Return what the loss gains at the kept part nearest to `ratio`."""
    nearest = min(range(len(curve["ratios"])), key=lambda index: abs(curve["ratios"][index] - ratio))
    return float(curve["losses"][nearest] - curve["losses"][0])


def _span(values: Sequence[float], of: str = "pairs") -> str:
    """Return the mean and the ends of some correlations."""
    if len(values) == 1:
        return f"{values[0]:.2f}, from one {of.removesuffix('s')}"
    return f"{fmean(values):.2f}, {min(values):.2f} to {max(values):.2f} in {len(values)} {of}"


def _matrix(table: Table) -> tuple[list[str], list[list[float | None]]]:
    """Return mean correlations between data sets; on the diagonal those between starts."""
    names = [name for name in table.names if not name.startswith(SPEED)]
    rows = {name: [row for row in table.of(name) if "curves" in row.result] for name in names}
    values: list[list[float | None]] = []
    for a in names:
        line: list[float | None] = []
        for b in names:
            pairs = combinations(rows[a], 2) if a == b else product(rows[a], rows[b])
            found = [value for one, two in pairs if (value := correlation(one, two)) is not None]
            line.append(fmean(found) if found else None)
        values.append(line)
    return names, values


def _markdown(table: Table) -> str:
    names, values = _matrix(table)
    lines = [f"| | {' | '.join(names)} | accuracy |", f"|---|{'---:|' * (len(names) + 1)}"]
    for name, line in zip(names, values, strict=True):
        cells = ["–" if value is None else f"{value:.2f}" for value in line]
        accuracy = fmean(table.values(name, "accuracy").values())
        lines.append(f"| {name} | {' | '.join(cells)} | {100 * accuracy:.1f} % |")
    title = "Mean rank correlation of the damage by layer: between starts on the diagonal, between data sets beside it."
    return "\n".join([title, "", *lines])


def figures(table: Table) -> dict[str, str]:
    """Draw the correlations, and the loss that each group costs on each data set."""
    names, values = _matrix(table)
    lines = []
    for name in names:
        damages = [
            [Curve.from_json(curve).damage for curve in row["curves"] if curve["kind"] == "channels"]
            for row in table.of(name)
        ]
        means = [fmean(column) for column in zip(*damages, strict=True)]
        largest = max(means) or 1.0
        points = tuple((float(index + 1), mean / largest) for index, mean in enumerate(means))
        lines.append(Line(label=name, kind=KINDS.get(name, "student"), points=points))
    y_title = "what the loss gains when a group is cut, largest = 1"
    return {
        "correlations": heat_chart("Rank correlation of sensitivities", names, values) if names else "",
        "groups": lines_chart("Sensitivity by group", "group of channels, in the order of the network", y_title, lines),
    }


STUDY = Study(
    title="Which layers are sensitive, and does the answer hold for other starts, data and speeds?",
    ideas=("C10",),
    presets={"quick": quick, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
