"""Sparse feature maps against sparse kernels: as what a channel is worth, and as what training is made to prefer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compress.studies import Cell, Study, Table, Verdict
from compress.studies.statistics import comparison, estimate
from studies.charts import Dot, dots_chart
from studies.protocol import RESNET56, data_of, pruned_by_stage, seeded_cells
from studies.tables import against, by_mean, factor, markdown, percent, speeds, spoken

BASELINE = "magnitude"
MAPS, KERNELS = "activation_sparsity", "kernel_sparsity"
TRAINED = "_trained"
#: Other penalties, and the criterion that reads what they leave.
PENALTIES = {
    "sorted_channels": "magnitude",
    "group_lasso": "magnitude",
    "growing_penalty": "magnitude",
    "batch_norm_slimming": "batch_norm_scale",
    "polarization": "batch_norm_scale",
}
BASE: dict[str, Any] = {
    **RESNET56,
    "options": {"batch_size": 128, "precision": "bfloat16", "max_steps": 314, "normalizer": "none"},
    "rates": [0.01, 0.05],
    "test_limit": 0,
    "rounds": 40,
}
#: Half of all steps in front of the cut, under the penalty.
SHARE = 0.5
BUDGETS = (0.476, 0.333)
SMALL: dict[str, Any] = {"builder": {"name": "resnet_cifar", "depth": 20}, "weights": "resnet20_cifar10.npz"}


def quick() -> Iterator[Cell]:
    """ResNet-20, one budget, one learning rate, one seed, 2,000 test images."""
    options = {**BASE["options"], "max_steps": 80}
    base = {**BASE, **SMALL, "options": options, "rates": [0.05], "test_limit": 2000, "rounds": 5}
    yield from grid(base, budgets=(0.476,), seeds=(0,), penalties=("sorted_channels", "group_lasso"))


def full() -> Iterator[Cell]:
    """ResNet-56, two budgets, three seeds; seed 0 chooses the learning rate."""
    yield from grid(BASE, budgets=BUDGETS, seeds=(0, 1, 2), penalties=tuple(PENALTIES))


def grid(
    base: Mapping[str, Any], *, budgets: Sequence[float], seeds: Sequence[int], penalties: Sequence[str] = ()
) -> Iterator[Cell]:
    """Yield the baseline, both criteria without and with the penalty of their kind, and other penalties."""
    for part in budgets:
        rows: dict[str, dict[str, Any]] = {BASELINE: {"criterion": BASELINE, "normalizer": "mean"}}
        for kind in (MAPS, KERNELS):
            penalty = {"sparsity": kind, "sparsity_share": SHARE}
            rows[kind] = {"criterion": kind}
            rows[f"{kind}{TRAINED}"] = {"criterion": kind, **penalty}
        for name in penalties:
            penalty = {"sparsity": name, "sparsity_share": SHARE}
            rows[f"{name}{TRAINED}"] = {"criterion": PENALTIES[name], "normalizer": "mean", **penalty}
        for name, own in rows.items():
            options = {**base["options"], **own, "budget": f"macs={part}"}
            yield from seeded_cells(f"{name}={part}", {**base, "options": options}, seeds)


def conclude(table: Table) -> Verdict:
    """Compare maps with kernels, each with and without its penalty, and all with magnitude."""
    sentences: list[str] = []
    ideas: dict[str, str] = {}
    for part in _budgets(table):
        where = f"at {1 / part:.1f}x fewer multiply-adds"
        for tail, what in ((TRAINED, "trained for"), ("", "as they are")):
            pair = [table.values(f"{kind}{tail}={part}", "test.tuned") for kind in (MAPS, KERNELS)]
            if set(pair[0]) & set(pair[1]):
                maps, kernels = f"sparsity of feature maps, {what},", f"sparsity of kernels, {what},"
                sentences.append(comparison(maps, pair[0], kernels, pair[1], where=where))
        names = [name for name in table.names if name.endswith(f"={part}")]
        compared = against(table, f"{BASELINE}={part}", names, where=where)
        sentences += compared.values()
        if sorting := compared.get(f"sorted_channels{TRAINED}={part}"):
            ideas["C2"] = sorting
    if not sentences:
        return Verdict(headline=f"{len(table.rows)} cells are measured, too few to compare.")
    headline = _capital(sentences[0])
    return Verdict(headline=headline, sentences=tuple(sentences[1:]), table=_markdown(table), ideas=ideas)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _budgets(table: Table) -> list[float]:
    return sorted({float(name.partition("=")[2]) for name in table.names}, reverse=True)


def _markdown(table: Table) -> str:
    head = ("", "MACs", "cut (validation)", "fine-tuned", "rate", "faster, batch 1", "batch 64")
    lines = []
    for part in _budgets(table):
        names = [name for name in table.names if name.endswith(f"={part}")]
        for name in by_mean({name: table.values(name, "test.tuned") for name in names}):
            rate, macs = f"{table.of(name)[0]['rate']:g}", factor(table, name, "macs")
            states = percent(table, name, "validation.cut"), percent(table, name, "test.tuned")
            lines.append((spoken(name), macs, *states, rate, *speeds(table, name)))
    return f"Accuracy in %, mean ± 95 % interval over seeds; fine-tuned on test images.\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw the accuracy after fine-tuning."""
    dots = []
    for part in _budgets(table):
        for name in (name for name in table.names if name.endswith(f"={part}")):
            found = estimate(list(table.values(name, "test.tuned").values()))
            kind = "teacher" if name.startswith(BASELINE) else "student" if name.startswith(MAPS) else "int8"
            half = None if found.half is None else 100 * found.half
            label = f"{spoken(name)}, {1 / part:.1f}×"
            dots.append(Dot(label=label, kind=kind, value=100 * found.mean, half=half))
    return {"accuracy": dots_chart("After fine-tuning", "test accuracy, %", dots)}


STUDY = Study(
    title="Are sparse feature maps or sparse kernels the better sign of a channel that can go?",
    ideas=("C2", "C6"),
    presets={"quick": quick, "full": full},
    run=pruned_by_stage,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
