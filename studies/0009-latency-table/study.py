"""Whether a table of layers that were timed one by one foresees the latency of whole networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.core.journal import Journal
from compress.core.model import BUILDERS, Model
from compress.core.progress import track
from compress.core.random import generator
from compress.graph.cost_model import CostModel
from compress.graph.groups import find_blocks, trace_groups
from compress.graph.latency_model import LatencyModel
from compress.graph.surgery import apply, plan_from_kept
from compress.graph.units import ChannelGroup
from compress.measure.latency_table import LatencyTable
from compress.measure.runtimes import RUNTIMES
from compress.prune.sensitivity import spearman
from compress.run import task_of
from compress.studies import Bench, Cell, Study, Table, Verdict
from compress.studies.statistics import Estimate, comparison, estimate
from studies.charts import scatter_chart
from studies.protocol import data_of
from studies.tables import markdown
from studies.turns import exported, timed_in_turns

BATCHES = (1, 64)
#: The claim: at most this median error, and at least this rank correlation, at both batches.
ERROR_MAX, RANK_MIN = 0.08, 0.95
#: "levels": what share of the channels a network keeps, between these two. "spread": the share of one group lies within
#: this part of the level around it. "calibration": levels of the networks that fit scale and floor; the first is whole.
#: "timings": how often the networks are timed, all in turns with each other, an even number; in new sessions each time.
BASE: dict[str, Any] = {
    "task": "cifar10",
    "builder": {"name": "resnet_cifar", "depth": 56},
    "runtime": "onnxruntime",
    "networks": 30,
    "levels": [0.15, 1.0],
    "spread": 0.5,
    "calibration": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2],
    "most_blocks": 0.3,
    "timings": 4,
    "rounds": 8,
    "pause_s": 0.5,
}
#: What is judged, by its name in the results: how it is called in the table, and in sentences.
WAYS = {
    "table": ("the table", "the table"),
    "macs": ("multiply-adds, scale and floor", "multiply-adds with scale and floor from the same networks"),
    "proportional": ("multiply-adds, in proportion to the whole network", "multiply-adds in proportion alone"),
    "again": ("half of the timings, from the other half", "half of the timings from the other half"),
}


def quick() -> Iterator[Cell]:
    """Thirty networks at batch 1 and at batch 64."""
    for batch in BATCHES:
        yield Cell(name=f"batch={batch}", settings={**BASE, "batch": batch})


def full() -> Iterator[Cell]:
    """The same with other networks and tables, four times, with longer pauses."""
    for seed in range(4):
        for batch in BATCHES:
            yield Cell(name=f"batch={batch}", seed=seed, settings={**BASE, "batch": batch, "pause_s": 2.0})


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Foresee networks of random widths and blocks, then time each; the first few calibrate and do not count."""
    settings = cell.settings
    task = task_of(settings["task"])
    model = Model.build(BUILDERS.from_json(settings["builder"]), task.input, seed=0)
    groups, x_BCHW = trace_groups(model.module, task.input.example()), task.input.example(1)
    counts = CostModel(model.module, groups, x_BCHW)
    journal = Journal(Path(bench.scratch) / "table.jsonl")
    table = LatencyTable(RUNTIMES.bind(settings["runtime"]), journal, batch=settings["batch"])
    latency = LatencyModel(model.module, counts, x_BCHW, table)
    numbers = range(len(settings["calibration"]) + settings["networks"])
    networks = [drawn(model, groups, settings, cell.seed, number) for number in numbers]
    latency.prepare(networks)
    layers_ms = [latency.layers_ms(*network) for network in networks]
    macs = [float(counts.macs(*network)) for network in networks]
    cuts = [
        apply(model, plan_from_kept(groups, kept, blocks), stage="study", config={}) for kept, blocks in networks[1:]
    ]
    timings = _timed(bench, [model, *cuts], settings)
    reference_ms = float(np.median([timing["reference_ms"] for timing in timings]))
    times_TN = reference_ms * np.array([timing["ratios"] for timing in timings])
    measured_ms, even_ms, odd_ms = (np.median(part, 0).tolist() for part in (times_TN, times_TN[::2], times_TN[1::2]))
    num = len(settings["calibration"])
    sums = {"table": layers_ms, "macs": macs}
    lines = {name: _fitted(latency, values[:num], measured_ms[:num]) for name, values in sums.items()}
    foreseen = {
        "table": _foreseen(lines["table"], layers_ms[num:]),
        "macs": _foreseen(lines["macs"], macs[num:]),
        "proportional": [reference_ms * count / counts.macs({}) for count in macs[num:]],
    }
    return {
        **{name: _judged(values, measured_ms[num:]) for name, values in foreseen.items()},
        "again": _judged(odd_ms[num:], even_ms[num:]),
        "fitted": lines,
        "calibration": {"foreseen_ms": _foreseen(lines["table"], layers_ms[:num]), "measured_ms": measured_ms[:num]},
        "reference_ms": reference_ms,
        "foreseen_ms": foreseen,
        "measured_ms": measured_ms[num:],
    }


def drawn(
    model: Model, groups: Sequence[ChannelGroup], settings: Mapping[str, Any], seed: int, number: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Draw what network `number` keeps of each group, and the blocks that it lacks. Number 0 is whole.

    A network has a level u; a group of C channels keeps C · u · U(1 - spread, 1 + spread) of them, rounded to the
    nearest whole number and held within 1 and C. Most widths are not those at which the table is read.
    """
    if number == 0:
        return {group.name: torch.ones(group.num_channels, dtype=torch.bool) for group in groups}, []
    chance = generator(seed, "latency-table", number)
    low, high = settings["levels"]
    level = low + (high - low) * float(torch.rand(1, generator=chance))
    if number < len(settings["calibration"]):
        level = settings["calibration"][number]
    kept: dict[str, Tensor] = {}
    for group in groups:
        share = level * (1 + settings["spread"] * (2 * float(torch.rand(1, generator=chance)) - 1))
        width = min(group.num_channels, max(1, round(share * group.num_channels)))
        kept[group.name] = torch.arange(group.num_channels) < width
    part = settings["most_blocks"] * float(torch.rand(1, generator=chance))
    names = [block.name for block in find_blocks(model.module)]
    return kept, [name for name in names if float(torch.rand(1, generator=chance)) < part]


def _timed(bench: Bench, models: Sequence[Model], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Time all networks in turns, in new sessions each time: parts of the first one's time, and that in ms."""
    names = [str(number) for number in range(len(models))]
    x_BCHW = models[0].input.example(settings["batch"]).numpy()
    pace = {"rounds": settings["rounds"], "pause_s": settings["pause_s"]}

    def measure(files: Mapping[str, Path], seed: int) -> dict[str, Any]:
        times = timed_in_turns(files, x_BCHW, **pace, seed=seed)
        return {
            "ratios": [times.ratio(name, names[0]).value for name in names],
            "reference_ms": times.median_ms[names[0]],
        }

    with exported(dict(zip(names, models, strict=True))) as files:
        numbers = track(range(settings["timings"]), total=settings["timings"], what="time all networks")
        return [bench.once(f"timing-{number}", partial(measure, files, number)) for number in numbers]


def _fitted(latency: LatencyModel, sums: Sequence[float], measured_ms: Sequence[float]) -> dict[str, float]:
    """Return scale and floor of the line through the calibration networks, fitted in one way for whatever is summed."""
    latency.calibrate(sums, measured_ms)
    return {"scale": latency.scale, "floor_ms": latency.floor_ms}


def _foreseen(line: Mapping[str, float], sums: Sequence[float]) -> list[float]:
    return [line["floor_ms"] + line["scale"] * value for value in sums]


def _judged(foreseen: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    error_N = np.abs(np.asarray(foreseen) / np.asarray(measured) - 1)
    return {
        "median_error": float(np.median(error_N)),
        "largest_error": float(error_N.max()),
        "rank_correlation": spearman(foreseen, measured),
    }


def conclude(table: Table) -> Verdict:
    """Hold the table against the claim at each batch, and against multiply-adds."""
    if not table.rows:
        return Verdict(headline="No cell is measured.")
    sentences = []
    for name in table.names:
        at = f"at {name.replace('=', ' ')}"
        sentences.append(_against_the_claim(table, name, at))
        own, other = (_errors(table, name, way) for way in ("table", "macs"))
        unit = "points of median error"
        said = comparison("the table", own, WAYS["macs"][1], other, unit=unit, where=at, is_less_better=True)
        sentences.append(f"{said[0].upper()}{said[1:]}")
        sentences += [_plain(table, name, way, at) for way in ("macs", "proportional", "again")]
    return Verdict(headline=_headline(table), sentences=tuple(sentences), table=_markdown(table))


def verdict_on(found: Estimate, limit: float, *, is_least: bool) -> str:
    """Return "met", "missed", "undecided" when the interval holds the limit, and how one seed alone stands.

    >>> verdict_on(Estimate(0.05, 0.02, 3), 0.08, is_least=False)
    'met'
    >>> verdict_on(Estimate(0.94, 0.02, 3), 0.95, is_least=True)
    'undecided'
    >>> verdict_on(Estimate(0.94, None, 1), 0.95, is_least=True)
    'missed by one seed'
    """
    state = "met" if (found.mean >= limit if is_least else found.mean <= limit) else "missed"
    if found.half is None:
        return f"{state} by one seed"
    return "undecided" if abs(found.mean - limit) < found.half else state


def _errors(table: Table, name: str, way: str) -> dict[int, float]:
    return table.values(name, f"{way}.median_error")


def _found(table: Table, name: str, way: str) -> tuple[Estimate, Estimate]:
    """Return median error and rank correlation over the seeds."""
    ranks = table.values(name, f"{way}.rank_correlation")
    return estimate(list(_errors(table, name, way).values())), estimate(list(ranks.values()))


def _states(table: Table, name: str) -> tuple[str, str]:
    """Return how the table stands to either part of the claim at one batch."""
    error, rank = _found(table, name, "table")
    return verdict_on(error, ERROR_MAX, is_least=False), verdict_on(rank, RANK_MIN, is_least=True)


def _headline(table: Table) -> str:
    """Return whether the claim holds: everywhere, or where not."""
    states = {name: _states(table, name) for name in table.names}
    missing = [f"batch {batch}" for batch in BATCHES if f"batch={batch}" not in states]
    known = {state for found in states.values() for state in found}
    answer = "does not hold" if "missed" in known else "holds" if known == {"met"} and not missing else "is undecided"
    parts = []
    for name, found in states.items():
        error, rank = _found(table, name, "table")
        figures = f"{error.text(scale=100, digits=1)} % ({found[0]}) and {rank.text(digits=3)} ({found[1]})"
        parts.append(f"{figures} at {name.replace('=', ' ')}")
    parts += [f"nothing yet at {batch}" for batch in missing]
    fewest, most = (count(len(table.of(name)) for name in table.names) for count in (min, max))
    seeds = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
    seeds = seeds if most > 1 else "one seed, so no interval and no decision"
    networks = table.rows[0].cell.settings["networks"]
    return (
        f"The claim that the table foresees {networks} random networks with a median error of at most "
        f"{ERROR_MAX:.0%} and a rank correlation of at least {RANK_MIN:g} {answer}: {'; '.join(parts)} ({seeds})."
    )


def _against_the_claim(table: Table, name: str, at: str) -> str:
    error, rank = _found(table, name, "table")
    states = _states(table, name)
    largest = max(table.values(name, "table.largest_error").values())
    seeds = f"{error.num} seed{'s' if error.num > 1 else ', so no interval'}"
    return (
        f"The table's median error {at} is {error.text(scale=100, digits=1)} % (at most {ERROR_MAX:.0%}: {states[0]}), "
        f"its largest {largest:.1%}, its rank correlation {rank.text(digits=3)} (at least {RANK_MIN:g}: {states[1]}; "
        f"{seeds})."
    )


def _plain(table: Table, name: str, way: str, at: str) -> str:
    error, rank = _found(table, name, way)
    said = WAYS[way][1]
    return (
        f"{said[0].upper()}{said[1:]} {at}: median error {error.text(scale=100, digits=1)} %, rank correlation "
        f"{rank.text(digits=3)}."
    )


def _markdown(table: Table) -> str:
    head = ("", "seeds", "median error, %", "largest error, %", "rank correlation")
    lines = []
    for name in table.names:
        for way, (said, _) in WAYS.items():
            error, rank = _found(table, name, way)
            largest = max(table.values(name, f"{way}.largest_error").values())
            figures = (error.text(scale=100, digits=1), f"{100 * largest:.1f}", rank.text(digits=3))
            lines.append((f"{name.replace('=', ' ')}: {said}", str(error.num), *figures))
    return f"Mean ± 95 % interval over seeds; the largest error is that of all seeds.\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw foreseen against measured latency, by the table and by multiply-adds, of all seeds."""
    found = {}
    for name in table.names:
        points = {
            said: (
                kind,
                [pair for row in table.of(name) for pair in _pairs(row["measured_ms"], row[f"foreseen_ms.{way}"])],
            )
            for said, kind, way in (("by the table", "student", "table"), ("by multiply-adds", "int8", "macs"))
        }
        title = f"Latency of random networks, {name.replace('=', ' ')}"
        found[name.replace("=", "-")] = scatter_chart(title, "measured, ms", "foreseen, ms", points)
    return found


def _pairs(measured_ms: Sequence[float], foreseen_ms: Sequence[float]) -> Iterator[tuple[float, float]]:
    return zip(measured_ms, foreseen_ms, strict=True)


STUDY = Study(
    title="Does a table of timed layers foresee the latency of whole networks?",
    ideas=("D7",),
    presets={"quick": quick, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
