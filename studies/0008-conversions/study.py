"""Convolutions made cheaper in kind, against fewer channels of the same kind, at equal multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compress.prune.conversions import CONVERSIONS
from compress.run import run_stage, task_of
from compress.studies import Bench, Cell, Study, Table, Verdict
from compress.studies.statistics import comparison, estimate
from studies.charts import Dot, dots_chart
from studies.protocol import RESNET56, costs, data_of, on_test, start_of, store_of
from studies.tables import factor, markdown, percent, speeds

CHANNELS = "channels="
BASE: dict[str, Any] = {
    **RESNET56,
    "options": {
        "batch_size": 128,
        "precision": "bfloat16",
        "max_steps": 314,
        "runtime": "onnxruntime",
        "latency_rounds": 20,
    },
    "criterion": {"criterion": "taylor", "normalizer": "none"},
    "rate": 0.02,
    "test_limit": 0,
    "rounds": 40,
}
#: Part of the steps during which a conversion fades in.
FADING = 0.5
BATCHES = (1, 64)
SMALL: dict[str, Any] = {"builder": {"name": "resnet_cifar", "depth": 20}, "weights": "resnet20_cifar10.npz"}


def quick() -> Iterator[Cell]:
    """ResNet-20, judged at batch 64, 80 steps, one seed, 2,000 test images."""
    options = {**BASE["options"], "max_steps": 80, "latency_rounds": 8}
    base = {**BASE, **SMALL, "options": options, "test_limit": 2000, "rounds": 5}
    yield from grid(base, conversions=("grouped", "depthwise", "low_rank"), batches=(64,), seeds=(0,))


def full() -> Iterator[Cell]:
    """ResNet-56, all conversions, judged at batch 1 and 64, three seeds."""
    names = [name for name in CONVERSIONS if not CONVERSIONS[name].extra.get("is_no_op")]
    yield from grid(BASE, conversions=names, batches=BATCHES, seeds=(0, 1, 2))


def grid(
    base: Mapping[str, Any], *, conversions: Sequence[str], batches: Sequence[int], seeds: Sequence[int]
) -> Iterator[Cell]:
    """Yield every conversion, and behind it channels cut to the multiply-adds that it left."""
    for batch in batches:
        options = {**base["options"], "latency_batch": batch}
        for name in conversions:
            for seed in seeds:
                own = {**base, "options": {**options, "conversion": name, "conversion_share": FADING}}
                first = Cell(name=f"{name}=b{batch}", seed=seed, settings=own)
                yield first
                plain = {**base, "options": options}
                yield Cell(name=f"{CHANNELS}{name}=b{batch}", seed=seed, settings=plain, after=(first.label,))


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Convert what gets faster and cut nothing; or cut channels to what a conversion left."""
    settings, store = cell.settings, store_of(bench)
    task = task_of(settings["task"])
    start = start_of(bench, settings, task)
    options = {
        **settings["options"],
        "recipe": {"name": "sgd_cosine", "lr": settings["rate"]},
        "seed": cell.seed,
        "budget": "macs=1",
    }
    for earlier in bench.found.values():
        if earlier["macs"] <= 1:
            return {"macs": 1.0, "refused": True}
        options |= {**settings["criterion"], "budget": f"macs={1 / earlier['macs']:.5f}"}
    entry = run_stage("prune", options, {"model": start}, task, store).entry
    model, before = entry.model, store.get(start).model
    layers = entry.report.get("conversion", {}).get("layers", {})
    return {
        "test": {"tuned": bench.once("test", lambda: on_test(model.module, task, limit=settings["test_limit"]))},
        "validation": {"tuned": entry.report["validation_accuracy"]},
        "converted": sum(bool(row["is_converted"]) for row in layers.values()),
        "offered": len(layers),
        **bench.once("costs", lambda: costs(before, model, rounds=settings["rounds"])),
    }


def conclude(table: Table) -> Verdict:
    """Compare every conversion with channels cut to as many multiply-adds."""
    sentences, refused = [], []
    for name in (name for name in table.names if not name.startswith(CHANNELS)):
        own, other = (table.values(one, "test.tuned") for one in (name, f"{CHANNELS}{name}"))
        kind, _, batch = name.partition("=b")
        if not sum(table.values(name, "converted").values()):
            refused.append(f"{kind.replace('_', ' ')} (batch {batch})")
        elif set(own) & set(other):
            macs = factor(table, name, "macs").replace("×", "x")
            faster = factor(table, name, f"faster.onnxruntime, batch {batch}.value").replace("×", "x")
            where = f"at {macs} fewer multiply-adds ({faster} faster at batch {batch})"
            sentences.append(comparison(kind.replace("_", " "), own, "cut channels", other, where=where))
    if refused:
        sentences.append(f"Refused everywhere, because nothing got faster in ONNX Runtime: {', '.join(refused)}.")
    if not sentences:
        return Verdict(headline=f"{len(table.rows)} cells are measured, too few to compare.")
    headline = sentences[0][:1].upper() + sentences[0][1:]
    return Verdict(headline=headline, sentences=tuple(sentences[1:]), table=_markdown(table))


def _markdown(table: Table) -> str:
    head = ("", "judged at", "fine-tuned", "MACs", "faster, batch 1", "batch 64", "layers converted")
    lines = []
    for name in table.names:
        row = table.of(name)[0]
        if row.result.get("refused"):
            continue
        kind, _, batch = name.removeprefix(CHANNELS).partition("=b")
        said = f"channels, as many as {kind} left" if name.startswith(CHANNELS) else kind
        own = percent(table, name, "test.tuned"), factor(table, name, "macs")
        layers = f"{row['converted']} of {row['offered']}" if row["offered"] else "–"
        lines.append((said.replace("_", " "), f"batch {batch}", *own, *speeds(table, name), layers))
    return f"Test accuracy in %, mean ± 95 % interval over seeds.\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw conversions beside channels cut as far."""
    dots = []
    for name in table.names:
        if values := list(table.values(name, "test.tuned").values()):
            found = estimate(values)
            half = None if found.half is None else 100 * found.half
            kind = "int8" if name.startswith(CHANNELS) else "student"
            label = name.replace("=b", ", batch ").replace("=", " as ").replace("_", " ")
            dots.append(Dot(label=label, kind=kind, value=100 * found.mean, half=half))
    return {"accuracy": dots_chart("Converted (blue) and cut as far", "test accuracy, %", dots)}


STUDY = Study(
    title="Is a convolution of a cheaper kind better than one with fewer channels?",
    ideas=("D4",),
    presets={"quick": quick, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
