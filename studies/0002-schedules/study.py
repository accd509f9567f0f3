"""One cut, several cuts, soft cuts and expectation-maximisation, under equal numbers of training steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compress.studies import Cell, Study, Table, Verdict
from compress.studies.statistics import paired
from studies.charts import Dot, dots_chart
from studies.protocol import RESNET56, data_of, pruned_by_stage, seeded_cells
from studies.tables import against, by_mean, factor, markdown, percent, speeds, spoken

BASELINE = "one_shot"
SCHEDULES = (BASELINE, "progressive", "soft", "expectation_maximization")
#: What the ideas list calls them.
IDEAS = {"progressive": "D3", "soft": "D3", "expectation_maximization": "D5"}
BASE: dict[str, Any] = {
    **RESNET56,
    "options": {"budget": "macs=0.3333", "criterion": "magnitude", "batch_size": 128, "precision": "bfloat16"},
    "rates": [0.01, 0.05],
    "test_limit": 0,
    "rounds": 40,
}
STEPS = (157, 628)
SMALL: dict[str, Any] = {"builder": {"name": "resnet_cifar", "depth": 20}, "weights": "resnet20_cifar10.npz"}


def quick() -> Iterator[Cell]:
    """ResNet-20, two short trainings, one learning rate, one seed, 2,000 test images."""
    base = {**BASE, **SMALL, "rates": [0.05], "test_limit": 2000, "rounds": 5}
    yield from grid(base, steps=(40, 120), seeds=(0,))


def full() -> Iterator[Cell]:
    """ResNet-56, two lengths of training, three seeds; seed 0 chooses the learning rate."""
    yield from grid(BASE, steps=STEPS, seeds=(0, 1, 2))


def grid(base: Mapping[str, Any], *, steps: Sequence[int], seeds: Sequence[int]) -> Iterator[Cell]:
    """Yield every schedule with every number of steps."""
    for count in steps:
        for name in SCHEDULES:
            options = {**base["options"], "schedule": name, "max_steps": count}
            yield from seeded_cells(f"{name}={count}", {**base, "options": options}, seeds)


def conclude(table: Table) -> Verdict:
    """Compare every schedule with the single cut, at each number of steps."""
    sentences: dict[str, str] = {}
    for count in _lengths(table):
        names = [name for name in table.names if name.endswith(f"={count}")]
        sentences |= against(table, f"{BASELINE}={count}", names, where=f"after {count} steps")
    if not sentences:
        return Verdict(headline=f"{len(table.rows)} cells are measured, too few to compare.", table=_markdown(table))
    winners = [name for name in sentences if _gap(table, name) > 0]
    clear = [name for name in winners if "beats" in sentences[name]]
    return Verdict(
        headline=_headline(table, winners, clear),
        sentences=tuple(sentences.values()),
        table=_markdown(table),
        ideas=_by_idea(table, sentences),
    )


def _headline(table: Table, winners: Sequence[str], clear: Sequence[str]) -> str:
    others = [name for name in SCHEDULES if name != BASELINE and any(spoken_of(full) == name for full in table.names)]
    ahead = [name for name in others if any(spoken_of(full) == name for full in winners)]
    behind = [name for name in others if name not in ahead]
    sure = sorted({spoken_of(name) for name in clear}, key=others.index)
    parts = []
    if ahead:
        parts.append(f"{_and(ahead)} end above a single cut at one length of training at least")
    if behind:
        parts.append(f"{_and(behind)} at none")
    tail = f"beyond noise: {_and(sure)}" if sure else "none of them beyond noise"
    return f"At 3 times fewer multiply-adds {', '.join(parts)}; {tail}."


def spoken_of(name: str) -> str:
    """Return the schedule of a cell's name."""
    return name.partition("=")[0]


def _and(names: Sequence[str]) -> str:
    plain = [name.replace("_", " ") for name in names]
    return plain[0] if len(plain) == 1 else f"{', '.join(plain[:-1])} and {plain[-1]}"


def _lengths(table: Table) -> list[int]:
    return sorted({int(name.partition("=")[2]) for name in table.names})


def _gap(table: Table, name: str) -> float:
    baseline = f"{BASELINE}={name.partition('=')[2]}"
    return paired(table.values(name, "test.tuned"), table.values(baseline, "test.tuned")).mean


def _by_idea(table: Table, sentences: Mapping[str, str]) -> dict[str, str]:
    """Return, for each idea, the sentence on its schedule that gains most."""
    found: dict[str, str] = {}
    for name in sorted(sentences, key=lambda name: _gap(table, name)):
        found[IDEAS[spoken_of(name)]] = sentences[name]
    return found


def _markdown(table: Table) -> str:
    head = ("", "steps", "fine-tuned", "rate", "MACs", "faster, batch 1", "batch 64")
    lines = []
    for count in _lengths(table):
        names = [name for name in table.names if name.endswith(f"={count}")]
        for name in by_mean({name: table.values(name, "test.tuned") for name in names}):
            rate, macs = f"{table.of(name)[0]['rate']:g}", factor(table, name, "macs")
            own = percent(table, name, "test.tuned")
            lines.append((spoken(name), str(count), own, rate, macs, *speeds(table, name)))
    return f"Test accuracy in %, mean ± 95 % interval over seeds.\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw what each schedule gains over the single cut."""
    dots = []
    for name in table.names:
        values, base = (table.values(one, "test.tuned") for one in (name, f"{BASELINE}={name.partition('=')[2]}"))
        if spoken_of(name) == BASELINE or not set(values) & set(base):
            continue
        gap = paired(values, base)
        half = None if gap.half is None else 100 * gap.half
        label = f"{spoken(name)}, {name.partition('=')[2]} steps"
        dots.append(Dot(label=label, kind="student", value=100 * gap.mean, half=half))
    return {"gain": dots_chart("Gain over a single cut", "points of test accuracy", dots)}


STUDY = Study(
    title="Is it better to cut slowly, softly or in turns with an estimate than at once?",
    ideas=("D3", "D5"),
    presets={"quick": quick, "full": full},
    run=pruned_by_stage,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
