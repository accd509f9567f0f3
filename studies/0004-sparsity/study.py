"""Sparse feature maps against sparse kernels: as what a channel is worth, and as what training is made to prefer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compress.studies import Cell, Study, Table, Verdict
from compress.studies.statistics import comparison, estimate
from studies.charts import Dot, dots_chart
from studies.protocol import RESNET56, at_rate, by_seed, data_of, pruned_by_stage, seeded_cells
from studies.tables import NOTHING, against, by_mean, caption, factor, markdown, percent, speeds, spoken

BASELINE = "magnitude"
MAPS, KERNELS = "activation_sparsity", "kernel_sparsity"
TRAINED, CONTROL = "_trained", "_in_front"
#: The criterion that reads what a penalty leaves.
CRITERIA = {
    MAPS: MAPS,
    KERNELS: KERNELS,
    "sorted_channels": "magnitude",
    "group_lasso": "magnitude",
    "growing_penalty": "magnitude",
    "batch_norm_slimming": "batch_norm_scale",
    "polarization": "batch_norm_scale",
}
#: The normalizer with which study 0001 found a criterion at its best; the others have "max".
NORMALIZERS = {MAPS: "mean"}
#: Weights at a learning rate of 0.01 that move, in 157 steps, what a penalty acts on by a tenth to a third. At another
#: rate they are divided by its ratio to 0.01, so that the force of a step stays the same.
WEIGHTS = {
    MAPS: 10.0,
    KERNELS: 2e-3,
    "sorted_channels": 1.0,
    "group_lasso": 3e-3,
    "growing_penalty": 1.0,
    "batch_norm_slimming": 0.015,
    "polarization": 0.015,
}
#: (learning rate, weight in parts of the above): as many candidates for a row with a penalty as for one without.
WITH_PENALTY = ((0.01, 1.0), (0.03, 1.0), (0.01, 4.0))
WITHOUT = ((0.01, 1.0), (0.02, 1.0), (0.03, 1.0))
BASE: dict[str, Any] = {
    **RESNET56,
    "options": {"batch_size": 128, "precision": "bfloat16", "max_steps": 314},
    "test_limit": 0,
    "rounds": 40,
}
#: Half of all steps in front of the cut, under the penalty or without it.
SHARE = 0.5
BUDGETS = (0.476, 0.333)
SMALL: dict[str, Any] = {"builder": {"name": "resnet_cifar", "depth": 20}, "weights": "resnet20_cifar10.npz"}


def quick() -> Iterator[Cell]:
    """ResNet-20, one budget, one candidate a row, one seed, 2,000 test images."""
    options = {**BASE["options"], "max_steps": 80}
    base = {**BASE, **SMALL, "options": options, "test_limit": 2000, "rounds": 5}
    penalties = (MAPS, KERNELS, "sorted_channels", "group_lasso")
    yield from grid(base, budgets=(0.476,), seeds=(0,), penalties=penalties, num_candidates=1)


def cpu() -> Iterator[Cell]:
    """ResNet-20 at three times fewer multiply-adds, all penalties, three seeds. Two cores: an hour and a half."""
    base = {**BASE, **SMALL, "rounds": 10}
    yield from by_seed(grid(base, budgets=(0.333,), seeds=(0, 1, 2), penalties=tuple(CRITERIA)))


def full() -> Iterator[Cell]:
    """ResNet-56, two budgets, three seeds; seed 0 chooses the learning rate and the weight."""
    yield from by_seed(grid(BASE, budgets=BUDGETS, seeds=(0, 1, 2), penalties=tuple(CRITERIA)))


def grid(
    base: Mapping[str, Any],
    *,
    budgets: Sequence[float],
    seeds: Sequence[int],
    penalties: Sequence[str],
    num_candidates: int = 3,
) -> Iterator[Cell]:
    """Yield, for every criterion, cuts with all training behind and with half of it in front; then every penalty."""
    for part in budgets:
        rows: dict[str, list[dict[str, Any]]] = {}
        for criterion in dict.fromkeys([BASELINE, *(CRITERIA[name] for name in penalties)]):
            own = {"criterion": criterion, "normalizer": NORMALIZERS.get(criterion, "max")}
            rows[criterion] = [at_rate(rate, **own) for rate, _ in WITHOUT]
            in_front = {**own, "sparsity": {"name": "group_lasso", "weight": 0.0}, "sparsity_share": SHARE}
            rows[f"{criterion}{CONTROL}"] = [at_rate(rate, **in_front) for rate, _ in WITHOUT]
        for name in penalties:
            own = {"criterion": CRITERIA[name], "normalizer": NORMALIZERS.get(CRITERIA[name], "max")}
            rows[f"{name}{TRAINED}"] = [
                at_rate(rate, **own, sparsity=penalty(name, rate, times, part), sparsity_share=SHARE)
                for rate, times in WITH_PENALTY
            ]
        for name, candidates in rows.items():
            options = {**base["options"], "budget": f"macs={part}"}
            settings = {**base, "options": options, "candidates": candidates[:num_candidates]}
            yield from seeded_cells(f"{name}={part}", settings, seeds)


def penalty(name: str, rate: float, times: float, part: float) -> dict[str, Any]:
    """Return the piece with its weight.

    >>> penalty("group_lasso", 0.03, 1.0, 0.5)
    {'name': 'group_lasso', 'weight': 0.001}
    """
    found: dict[str, Any] = {"name": name, "weight": round(WEIGHTS[name] * times * 0.01 / rate, 6)}
    return {**found, "pulled_ratio": round(1 - part, 3)} if name == "growing_penalty" else found


def conclude(table: Table) -> Verdict:
    """Compare maps with kernels, each penalty with the same training without it, and all with magnitude."""
    sentences: list[str] = []
    ideas: dict[str, list[str]] = {"C2": [], "C6": []}
    for part in _budgets(table):
        where = f"at {1 / part:.1f}x fewer multiply-adds"
        for tail, what in ((TRAINED, "trained for"), ("", "as they are")):
            pair = [table.values(f"{kind}{tail}={part}", "test.tuned") for kind in (MAPS, KERNELS)]
            if set(pair[0]) & set(pair[1]):
                maps, kernels = f"sparsity of feature maps, {what},", f"sparsity of kernels, {what},"
                ideas["C6"].append(comparison(maps, pair[0], kernels, pair[1], where=where))
                sentences.append(ideas["C6"][-1])
        for name, criterion in CRITERIA.items():
            control, trained = f"{criterion}{CONTROL}={part}", f"{name}{TRAINED}={part}"
            compared = against(
                table, control, [trained], where=f"(trained as long in front, without a penalty) {where}"
            )
            sentences += compared.values()
            if name == "sorted_channels":
                ideas["C2"] += compared.values()
        names = [name for name in table.names if name.endswith(f"={part}")]
        compared = against(table, f"{BASELINE}={part}", names, where=where)
        sentences += compared.values()
        ideas["C2"] += [said for name, said in compared.items() if name.startswith(f"sorted_channels{TRAINED}")]
    if not sentences:
        return Verdict(headline=f"{len(table.rows)} cells are measured, too few to compare.")
    headline = _capital(sentences[0])
    said = {idea: " ".join(found) for idea, found in ideas.items() if found}
    return Verdict(headline=headline, sentences=tuple(sentences[1:]), table=_markdown(table), ideas=said)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _budgets(table: Table) -> list[float]:
    return sorted({float(name.partition("=")[2]) for name in table.names}, reverse=True)


def _markdown(table: Table) -> str:
    head = ("", "MACs", "cut (validation)", "fine-tuned", "rate", "weight", "faster, batch 1", "batch 64")
    lines = []
    for part in _budgets(table):
        names = [name for name in table.names if name.endswith(f"={part}")]
        for name in by_mean({name: table.values(name, "test.tuned") for name in names}):
            chosen, macs = table.of(name)[0]["chosen"], factor(table, name, "macs")
            weight = chosen.get("sparsity", {}).get("weight")
            states = percent(table, name, "validation.cut"), percent(table, name, "test.tuned")
            own = (f"{chosen['recipe']['lr']:g}", f"{weight:g}" if weight else NOTHING)
            lines.append((spoken(name), macs, *states, *own, *speeds(table, name)))
    return f"{caption(table)} The cut's is that of validation images.\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw the accuracy after fine-tuning."""
    dots = []
    for part in _budgets(table):
        for name in (name for name in table.names if name.endswith(f"={part}")):
            found = estimate(list(table.values(name, "test.tuned").values()))
            kind = "teacher" if name.startswith(BASELINE) else "student" if name.startswith(MAPS) else "int8"
            label = f"{spoken(name)}, {1 / part:.1f}×"
            dots.append(Dot.percent(label, kind, found))
    return {"accuracy": dots_chart("After fine-tuning", "test accuracy, %", dots)}


STUDY = Study(
    title="Are sparse feature maps or sparse kernels the better sign of a channel that can go?",
    ideas=("C2", "C6"),
    presets={"quick": quick, "cpu": cpu, "full": full},
    run=pruned_by_stage,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
