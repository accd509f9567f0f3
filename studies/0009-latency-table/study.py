"""Whether a table of layers that were timed one by one foresees the latency of whole networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.core.journal import Journal
from compress.core.model import BUILDERS, Model
from compress.core.random import generator
from compress.core.stage import Entry
from compress.graph.cost_model import CostModel
from compress.graph.groups import find_blocks, trace_groups
from compress.graph.latency_model import LatencyModel
from compress.graph.surgery import apply, plan_from_kept
from compress.measure.clock import Clock
from compress.measure.latency_table import LatencyTable
from compress.measure.runtimes import RUNTIMES
from compress.prune.sensitivity import spearman
from compress.run import task_of
from compress.studies import Bench, Cell, Study, Table, Verdict
from studies.charts import scatter_chart
from studies.protocol import data_of
from studies.tables import markdown

BASE: dict[str, Any] = {
    "task": "cifar10",
    "builder": {"name": "resnet_cifar", "depth": 56},
    "runtime": "onnxruntime",
    "networks": 30,
    "calibration": 3,
    "most_blocks": 0.3,
    "rounds": 20,
}
STEP = 8


def quick() -> Iterator[Cell]:
    """Thirty networks at batch 1 and at batch 64."""
    for batch in (1, 64):
        yield Cell(name=f"batch={batch}", settings={**BASE, "batch": batch})


def full() -> Iterator[Cell]:
    """The same with other networks, three times."""
    for batch in (1, 64):
        for seed in (0, 1, 2):
            settings = {**BASE, "batch": batch, "rounds": 40, "pause_s": 1.0}
            yield Cell(name=f"batch={batch}", seed=seed, settings=settings)


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Foresee and measure networks of random widths and blocks; the first few calibrate and do not count."""
    settings = cell.settings
    task = task_of(settings["task"])
    model = Model.build(BUILDERS.from_json(settings["builder"]), task.input, seed=0)
    runtime = RUNTIMES.bind(settings["runtime"])
    x_BCHW = task.input.example(1)
    counts = CostModel(model.module, trace_groups(model.module, task.input.example()), x_BCHW)
    table = LatencyTable(runtime, Journal(Path(bench.scratch) / "table.jsonl"), batch=settings["batch"])
    latency = LatencyModel(model.module, counts, x_BCHW, table)
    rows = []
    timing = {"rounds": settings["rounds"], "pause_s": settings.get("pause_s", 0.0)}
    with Clock.against(Entry.of(model), runtime, batch=settings["batch"], **timing) as clock:
        for number in range(settings["calibration"] + settings["networks"]):
            measure = partial(_measured, model, latency, counts, clock, settings, cell.seed, number)
            rows.append(bench.once(f"network-{number}", measure))
    reference_ms = float(np.median([row["reference_ms"] for row in rows]))
    for row in rows:
        row["measured_ms"] = row["ratio"] * reference_ms
    known, others = rows[: settings["calibration"]], rows[settings["calibration"] :]
    latency.calibrate([row["layers_ms"] for row in known], [row["measured_ms"] for row in known])
    measured = [row["measured_ms"] for row in others]
    foreseen = [latency.floor_ms + latency.scale * row["layers_ms"] for row in others]
    by_macs = [reference_ms * row["macs"] / counts.macs({}) for row in others]
    return {
        "table": _judged(foreseen, measured),
        "macs": _judged(by_macs, measured),
        "scale": latency.scale,
        "floor_ms": latency.floor_ms,
        "reference_ms": reference_ms,
        "foreseen_ms": foreseen,
        "by_macs_ms": by_macs,
        "measured_ms": measured,
    }


def _measured(
    model: Model, latency: LatencyModel, counts: CostModel, clock: Clock, settings: Any, seed: int, number: int
) -> dict[str, float]:
    """Draw a network, sum its layers, build it and time it in turns with the whole one. Number 0 is the whole one."""
    groups = trace_groups(model.module, model.input.example(), is_verified=False)
    draw = generator(seed, "latency-table", number)
    kept: dict[str, Tensor] = {}
    for group in groups:
        widths = [*range(STEP, group.num_channels, STEP), group.num_channels]
        width = widths[int(torch.randint(len(widths), (1,), generator=draw))] if number else group.num_channels
        kept[group.name] = torch.arange(group.num_channels) < width
    part = settings["most_blocks"] * float(torch.rand(1, generator=draw)) if number else 0.0
    blocks = [block.name for block in find_blocks(model.module) if float(torch.rand(1, generator=draw)) < part]
    found = clock.measure(apply(model, plan_from_kept(groups, kept, blocks), stage="study", config={}))
    return {
        "layers_ms": latency.layers_ms(kept, blocks),
        "macs": float(counts.macs(kept, blocks)),
        "ratio": found["ratio"],
        "reference_ms": found["reference_ms"],
    }


def _judged(foreseen: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    error_N = np.abs(np.asarray(foreseen) / np.asarray(measured) - 1)
    return {
        "median_error": float(np.median(error_N)),
        "largest_error": float(error_N.max()),
        "rank_correlation": spearman(foreseen, measured),
    }


def conclude(table: Table) -> Verdict:
    """Say how far the table is off, and how far multiply-adds would be."""
    sentences = []
    for name in table.names:
        for row in table.of(name):
            own, other = row["table"], row["macs"]
            said = f"{row.cell.settings['networks']} random networks at {name.replace('=', ' ')} (seed {row.cell.seed})"
            sentences.append(
                f"The table foresees {said} with a median error of {own['median_error']:.1%}, largest "
                f"{own['largest_error']:.1%}, and a rank correlation of {own['rank_correlation']:.3f}; multiply-adds, "
                f"scaled from the whole network, are off by {other['median_error']:.1%}, with "
                f"{other['rank_correlation']:.3f}."
            )
    if not sentences:
        return Verdict(headline="No cell is measured.")
    return Verdict(headline=sentences[0], sentences=tuple(sentences[1:]), table=_markdown(table))


def _markdown(table: Table) -> str:
    head = (
        "",
        "seed",
        "median error",
        "largest",
        "rank correlation",
        "multiply-adds: median error",
        "rank correlation",
    )
    lines = []
    for row in table.rows:
        own, other = row["table"], row["macs"]
        errors = (f"{own['median_error']:.1%}", f"{own['largest_error']:.1%}", f"{own['rank_correlation']:.3f}")
        lines.append(
            (
                row.cell.name.replace("=", " "),
                str(row.cell.seed),
                *errors,
                f"{other['median_error']:.1%}",
                f"{other['rank_correlation']:.3f}",
            )
        )
    return markdown(head, lines)


def figures(table: Table) -> dict[str, str]:
    """Draw foreseen against measured latency, by the table and by multiply-adds."""
    found = {}
    for row in table.rows:
        measured = row["measured_ms"]
        points = {
            "by the table": ("student", tuple(zip(measured, row["foreseen_ms"], strict=True))),
            "by multiply-adds": ("int8", tuple(zip(measured, row["by_macs_ms"], strict=True))),
        }
        title = f"Latency of random networks, {row.cell.name.replace('=', ' ')}"
        found[f"{row.cell.label}".replace("=", "-")] = scatter_chart(title, "measured, ms", "foreseen, ms", points)
    return found


STUDY = Study(
    title="Does a table of timed layers foresee the latency of whole networks?",
    ideas=("D7",),
    presets={"quick": quick, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
