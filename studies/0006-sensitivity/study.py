"""How sensitive each layer is to losing channels: across starts, across data sets, and at different speeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, product
from math import isnan
from statistics import fmean
from typing import Any

from compress.core.model import Model
from compress.core.random import derived_seed
from compress.core.task import Task
from compress.graph.groups import trace_groups
from compress.graph.streams import inner_groups
from compress.prune.sensitivity import Curve, agreement, spearman
from compress.run import run_stage, task_of
from compress.studies import Bench, Cell, Row, Study, Table, Verdict
from compress.studies.statistics import (
    Estimate,
    corrected_correlation,
    estimate,
    gap_test,
    means_of,
    paired,
    pairs_of,
    unrelated_half,
)
from studies.charts import Line, heat_chart, lines_chart
from studies.paced_cuts import judged_by, loss_after_cut
from studies.protocol import data_of, start_of, store_of
from studies.tables import NOTHING, markdown, percent

DATA = ("cifar10", "cifar100", "fashion_mnist", "mnist")
KINDS = dict(zip(DATA, ("student", "cascade", "int8", "teacher"), strict=True))
SPEED = "speed-"
#: What is put into an order: groups inside of blocks, which count; all groups; blocks.
INSIDE, ALL, BLOCKS = "inside", "all", "blocks"
#: Where two starts agree by less, a correlation is not corrected for their disagreement.
RELIABLE = 0.3
BASE: dict[str, Any] = {
    "builder": {"name": "resnet_cifar", "depth": 32},
    "train": {"epochs": 60, "batch_size": 128, "precision": "bfloat16", "recipe": "sgd_one_cycle"},
    "curves": {
        "criterion": "magnitude",
        "compensation": "none",
        "ratios": [0.75, 0.5, 0.25, 0.1],
        "recalibrate_batches": 8,
        "batch_size": 64,
        "validation_limit": 0,
    },
}
#: A group is cut to `ratio` in 1 or `cuts` cuts, with as many steps of training in all.
PACE: dict[str, Any] = {
    "ratio": 0.25,
    "cuts": 4,
    "steps": 64,
    "batch_size": 128,
    "precision": "bfloat16",
    "rate": 0.01,
    "recalibrate_batches": 4,
    "images": 0,
}


def quick() -> Iterator[Cell]:
    """ResNet-20 at half its width, three data sets, 200 steps of training, three starts; the speed on one network."""
    base = {
        "builder": {"name": "resnet_cifar", "depth": 20, "width": 8},
        "train": {**BASE["train"], "epochs": 0, "max_steps": 200},
        "curves": {**BASE["curves"], "ratios": [0.5, 0.25], "recalibrate_batches": 4, "validation_limit": 500},
    }
    data = ("cifar10", "fashion_mnist", "mnist")
    yield from grid(base, PACE | {"steps": 16, "images": 500}, seeds=(0, 1, 2), paced=(("cifar10", 0),), data=data)


def cpu() -> Iterator[Cell]:
    """ResNet-20, seven epochs, three starts, the speed on all networks; 3 hours of one core, about 2 of two cores."""
    base = {
        "builder": {"name": "resnet_cifar", "depth": 20},
        "train": {**BASE["train"], "epochs": 7},
        "curves": {**BASE["curves"], "validation_limit": 1000},
    }
    yield from grid(base, PACE | {"steps": 32, "images": 1000}, seeds=(0, 1, 2), paced=tuple(product(DATA, (0, 1, 2))))


def full() -> Iterator[Cell]:
    """ResNet-32, trained to the end, three starts, the speed on all networks; a GPU, or a day of two cores."""
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
    task, seed = task_of(settings["task"]), seed_of(cell)
    start = start_of(bench, settings, task, seed)
    model = store.get(start).model
    groups = trace_groups(model.module, model.input.example())
    inside = [
        group.name for group in inner_groups(model.module, groups, model.input.example()) if group.num_channels > 1
    ]
    if "pace" in settings:
        return _paced(bench, model, task, settings["pace"], seed, inside)
    config = {**settings["curves"], "seed": seed}
    report = run_stage("sensitivity", config, {"model": start}, task, store).entry.report
    keys = ("group", "kind", "kept", "losses", "accuracies")
    curves = [{key: curve[key] for key in keys} for curve in report["curves"]]
    return {"accuracy": report["validation_accuracy"], "inside": inside, "curves": curves}


def seed_of(cell: Cell) -> int:
    """Return the seed of a network: no two share first weights, an order of images or images for batch norm.

    >>> a, b = (Cell(name=name, seed=1) for name in ("mnist", "cifar10"))
    >>> seed_of(a) != seed_of(b), seed_of(a) == seed_of(Cell(name="speed-mnist", seed=1))
    (True, True)
    """
    return derived_seed(cell.seed, cell.name.removeprefix(SPEED))


def _paced(
    bench: Bench, model: Model, task: Task, pace: Mapping[str, Any], seed: int, names: Sequence[str]
) -> dict[str, Any]:
    """Return, by group, the validation loss after a cut at once and after a slow one, both trained equally long."""
    short = judged_by(task, pace["images"])
    lost = partial(loss_after_cut, model.module, short, pace, seed=seed, scratch=bench.scratch)
    losses = {
        name: {
            speed: bench.once(f"{name}-{speed}", partial(lost, group=name, num_cuts=num_cuts))
            for speed, num_cuts in (("at_once", 1), ("slow", pace["cuts"]))
        }
        for name in names
    }
    return {"whole": bench.once("whole", partial(lost, group="", num_cuts=1)), "losses": losses}


def conclude(table: Table) -> Verdict:
    """Correlate the damage by group between starts, between data sets, and between speeds."""
    sentences = [*_on_data(table), *_on_speeds(table)]
    if not sentences:
        return Verdict(headline=f"{len(table.rows)} cells are measured, too few to compare.")
    return Verdict(headline=sentences[0], sentences=tuple(sentences[1:]), table=_markdown(table))


def correlations(table: Table, what: str = INSIDE) -> tuple[list[str], list[list[float]]]:
    """Return the data sets of all networks, and the rank correlation of the damage for each two of them.

    Args:
        table: Rows without curves are left out, and so are those whose damages are all equal.
        what: INSIDE, ALL or BLOCKS.
    """
    sides = [(row.cell.name, _curves(row, what)) for row in table.rows if "curves" in row.result]
    sides = [(name, curves) for name, curves in sides if agreement(curves, curves)["spearman"] is not None]
    values = [[agreement(one, two)["spearman"] or 0.0 for _, two in sides] for _, one in sides]
    return [name for name, _ in sides], values


def _curves(row: Row, what: str) -> list[Curve]:
    """Return what can be put into an order; blocks pass for groups."""
    nothing: dict[str, Any] = dict.fromkeys(("macs", "params", "keys"), ())
    found = []
    for one in row["curves"]:
        kept = tuple(one["kept"])
        is_block = one["kind"] == "block"
        if is_block == (what == BLOCKS) and (what != INSIDE or one["group"] in row["inside"]):
            sizes = {"kept": kept, "ratios": tuple(count / kept[0] for count in kept)}
            values = {"losses": tuple(one["losses"]), "accuracies": tuple(one["accuracies"])}
            found.append(Curve(group=one["group"], kind="channels", **sizes, **values, **nothing))
    return found


def _on_data(table: Table) -> list[str]:
    """Return the sentences on agreement between starts and between data sets; the first one alone is tested."""
    labels, values = correlations(table)
    same, other = pairs_of(labels, values)
    if not same:
        return []
    row = next(row for row in table.rows if "curves" in row.result)
    size, when = len(row["inside"]), _trained(row.cell.settings.get("train", {}))
    first = (
        f"{f'After {when} of training, networks' if when else 'Networks'} from other starts put the layers inside of "
        f"blocks into the same order of sensitivity with a rank correlation of {_beside_chance(same, size)}"
    )
    if not other:
        return [f"{first}."]
    test = gap_test(labels, values)
    answer = "these are too few networks to tell the two apart"
    if test.is_possible:
        answer = f"that networks on the same data agree more is {'shown' if test.is_significant else 'not shown'}"
    sentences = [f"{first}, networks on other data with {_beside_chance(other, size)}; {answer} ({test.text()})."]
    beside = [
        f"{title} {fmean(pairs[0]):.2f} and {fmean(pairs[1]):.2f}"
        for title, what in (("over all groups, streams between blocks among them,", ALL), ("over whole blocks", BLOCKS))
        if all(pairs := pairs_of(*correlations(table, what)))
    ]
    sentences += [f"For comparison, untested, the two are {'; '.join(beside)}."] if beside else []
    if found := list(_corrected(*means_of(labels, values)).values()):
        sentences.append(
            f"Corrected for the disagreement between starts, the correlation between data sets is "
            f"{_span(found, 'pairs of data sets')}; 1 would mean that the data set changes nothing."
        )
    return sentences


def _trained(train: Mapping[str, Any]) -> str:
    """Return how long networks were trained, which a headline must not leave out.

    >>> _trained({"max_steps": 200, "epochs": 0}), _trained({"epochs": 7})
    ('200 steps', '7 epochs')
    """
    names = {"max_steps": "steps", "epochs": "epochs"}
    return next((f"{train[key]:g} {name}" for key, name in names.items() if train.get(key)), "")


def _corrected(names: Sequence[str], means: Sequence[Sequence[float | None]]) -> dict[tuple[str, str], float]:
    """Return the correlation of each two data sets without the disagreement between starts, where that is small."""
    found: dict[tuple[str, str], float] = {}
    for i, j in combinations(range(len(names)), 2):
        ab, aa, bb = means[i][j], means[i][i], means[j][j]
        if ab is not None and aa is not None and bb is not None:
            value = corrected_correlation(ab, aa, bb, least=RELIABLE)
            found |= {} if value is None else {(names[i], names[j]): value}
    return found


def speeds_of(table: Table, name: str) -> dict[str, dict[int, float]]:
    """Compare the two speeds on one data set, by what and by seed.

    Returns:
        Mean loss over groups: "at_once", "slow"; "whole" of the uncut network. Rank correlations over groups: "agree"
        of the two speeds; "foretold" and "foretold_slow" of the curve without training and the loss behind it.
    """
    sources = {row.cell.seed: row for row in table.of(name) if "curves" in row.result}
    found: dict[str, dict[int, float]] = {}
    for row in (row for row in table.of(f"{SPEED}{name}") if row.cell.seed in sources):
        losses, ratio = row["losses"], row.cell.settings["pace"]["ratio"]
        damage = {curve.group: _at(curve, ratio) for curve in _curves(sources[row.cell.seed], INSIDE)}
        at_once, slow = ([one[speed] for one in losses.values()] for speed in ("at_once", "slow"))
        curve = [damage[group] for group in losses]
        facts = {"whole": row["whole"], "at_once": fmean(at_once), "slow": fmean(slow)}
        facts |= {"agree": spearman(at_once, slow)}
        facts |= {"foretold": spearman(curve, at_once), "foretold_slow": spearman(curve, slow)}
        for key, value in facts.items():
            if not isnan(value):
                found.setdefault(key, {})[row.cell.seed] = value
    return found


def _at(curve: Curve, ratio: float) -> float:
    """Return what the loss gains at the kept part nearest to `ratio`."""
    nearest = min(range(len(curve.ratios)), key=lambda index: abs(curve.ratios[index] - ratio))
    return curve.losses[nearest] - curve.losses[0]


def _on_speeds(table: Table) -> list[str]:
    """Return a sentence on the loss for each data set, and two on the order of the layers."""
    speeds = {name: found for name in _data_sets(table) if (found := speeds_of(table, name))}
    sentences = [
        f"On {name}, cutting slowly instead of at once, with as much training, "
        f"{_change(paired(found['slow'], found['at_once']))}, as a mean over layers."
        for name, found in speeds.items()
    ]
    if speeds:
        agree, at_once, slow = (
            _span([value for found in speeds.values() for value in found.get(key, {}).values()], "networks")
            for key in ("agree", "foretold", "foretold_slow")
        )
        sentences += [
            f"The two speeds put the layers into the same order with a rank correlation of {agree}.",
            f"The curve without any training foretells the loss behind training with a rank correlation of {at_once} "
            f"after a cut at once, and {slow} after a slow one.",
        ]
    return sentences


def _change(gap: Estimate) -> str:
    """Return what a difference of losses says.

    >>> _change(Estimate(-0.5, 0.1, 3)), _change(Estimate(0.5, None, 1))
    ('lowers the loss by 0.500 ± 0.100 (3 networks)', 'raises the loss by 0.500 (one network, so no interval)')
    """
    if gap.half is not None and not (gap.is_above or gap.is_below):
        return f"changes the loss by no more than noise, {gap.text(digits=3)} ({gap.num} networks)"
    size = Estimate(abs(gap.mean), gap.half, gap.num).text(digits=3)
    networks = "one network, so no interval" if gap.half is None else f"{gap.num} networks"
    return f"{'lowers' if gap.mean < 0 else 'raises'} the loss by {size} ({networks})"


def _beside_chance(values: Sequence[float], size: int) -> str:
    """Return the mean of the correlations of orders of `size` things, beside those of unrelated orders."""
    pairs = "one pair" if len(values) == 1 else f"{len(values)} pairs"
    return f"{fmean(values):.2f} ({pairs}; unrelated orders: 0 ± {unrelated_half(size, len(values)):.2f})"


def _span(values: Sequence[float], of: str) -> str:
    """Return the mean and the ends of some correlations."""
    if len(values) < 2:
        return f"{values[0]:.2f} (one of the {of})" if values else NOTHING
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f} in {len(values)} {of})"


def _data_sets(table: Table) -> list[str]:
    return [name for name in table.names if not name.startswith(SPEED)]


def _markdown(table: Table) -> str:
    """Return two tables: the correlations, and the speeds."""
    names, means = means_of(*correlations(table))
    corrected = _corrected(names, means)
    lines = []
    for a, line in zip(names, means, strict=True):
        cells = [NOTHING if value is None else f"{value:.2f}" for value in line]
        for column, b in enumerate(names):
            cells[column] += f" ({corrected[a, b]:.2f})" if (a, b) in corrected else ""
        lines.append((a, *cells, percent(table, a, "accuracy")))
    title = (
        "Mean rank correlation of the damage by layer inside of blocks: between starts on the diagonal, between data "
        "sets beside it; in brackets corrected for the disagreement between starts."
    )
    texts = [title, markdown(("", *names, "validation accuracy, %"), lines)] if lines else []
    keys = ("whole", "at_once", "slow", "agree", "foretold", "foretold_slow")
    speeds = {name: found for name in names if (found := speeds_of(table, name))}
    if speeds:
        head = ("", "uncut", "at once", "slow", "both speeds", "curve, at once", "curve, slow")
        rows = [
            (name, *(_mean(found.get(key, {}), 3 if key in keys[:3] else 2) for key in keys))
            for name, found in speeds.items()
        ]
        texts += [
            "Mean validation loss over layers, each cut alone; rank correlations between speeds and with the curve.",
            markdown(head, rows),
        ]
    return "\n\n".join(texts)


def _mean(values: Mapping[int, float], digits: int) -> str:
    return estimate(list(values.values())).text(digits=digits) if values else NOTHING


def figures(table: Table) -> dict[str, str]:
    """Draw the correlations, and the loss that each group inside of a block costs on each data set."""
    names, means = means_of(*correlations(table))
    lines = []
    for name in names:
        damages = [[curve.damage for curve in _curves(row, INSIDE)] for row in table.of(name)]
        columns = [fmean(column) for column in zip(*damages, strict=True)]
        largest = max(columns) or 1.0
        points = tuple((float(index + 1), mean / largest) for index, mean in enumerate(columns))
        lines.append(Line(label=name, kind=KINDS.get(name, "student"), points=points))
    y_title = "what the loss gains when a group is cut, largest = 1"
    x_title = "group of channels inside of a block, in the order of the network"
    return {
        "correlations": heat_chart("Rank correlation of sensitivities inside of blocks", names, means) if names else "",
        "groups": lines_chart("Sensitivity by group", x_title, y_title, lines),
    }


STUDY = Study(
    title="Which layers are sensitive, and does the answer hold for other starts, data and speeds?",
    ideas=("C10",),
    presets={"quick": quick, "cpu": cpu, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
