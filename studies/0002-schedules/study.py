"""One cut, several cuts, soft cuts and expectation-maximisation, under equal numbers of training steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from compress.prune.schedules import SCHEDULES as SCHEDULES_OF_STAGE
from compress.studies import Cell, Study, Table, Verdict
from compress.studies.statistics import Estimate, paired
from studies.charts import Dot, dots_chart
from studies.protocol import RESNET56, at_rate, by_seed, data_of, pruned_by_stage, seeded_cells
from studies.tables import NOTHING, against, by_mean, caption, factor, markdown, percent, speeds, spoken

BASELINE = "one_shot"
SCHEDULES = (BASELINE, "progressive", "soft", "expectation_maximization")
#: What the ideas list calls them.
IDEAS = {"progressive": "D3", "soft": "D3", "expectation_maximization": "D5"}
BASE: dict[str, Any] = {
    **RESNET56,
    "options": {"budget": "macs=0.3333", "criterion": "magnitude", "batch_size": 128, "precision": "bfloat16"},
    "test_limit": 0,
    "rounds": 40,
}
RATES = (0.01, 0.03)
STEPS = (157, 628)
#: In each round of expectation-maximisation what is redundant for sure shrinks to e to the minus this.
PULL = 1.2
#: Of the recipe, at whose beginning a force is not yet 1 / (1 - momentum) times as strong.
MOMENTUM = 0.9
SMALL: dict[str, Any] = {"builder": {"name": "resnet_cifar", "depth": 20}, "weights": "resnet20_cifar10.npz"}


def quick() -> Iterator[Cell]:
    """ResNet-20, two short trainings, one learning rate, three seeds, 2,000 test images."""
    yield from grid({**BASE, **SMALL, "test_limit": 2000, "rounds": 5}, steps=(40, 120), seeds=(0, 1, 2), rates=(0.03,))


def full() -> Iterator[Cell]:
    """ResNet-56, two lengths of training, three seeds; seed 0 chooses the learning rate. Two cores: 2 hours."""
    yield from by_seed(grid(BASE, steps=STEPS, seeds=(0, 1, 2), rates=RATES))


def grid(
    base: Mapping[str, Any], *, steps: Sequence[int], seeds: Sequence[int], rates: Sequence[float]
) -> Iterator[Cell]:
    """Yield every schedule with every number of steps."""
    for count in steps:
        for name in SCHEDULES:
            settings = {
                **base,
                "options": {**base["options"], "max_steps": count},
                "candidates": [at_rate(rate, schedule=schedule(name, count, rate)) for rate in rates],
            }
            yield from seeded_cells(f"{name}={count}", settings, seeds)


def schedule(name: str, steps: int, rate: float) -> dict[str, Any]:
    """Return the schedule with its default options, and a pull that goes as far whatever the length and the rate.

    >>> schedule("soft", 157, 0.01), schedule("expectation_maximization", 157, 0.01)
    ({'name': 'soft'}, {'name': 'expectation_maximization', 'strength': 1.365})
    """
    if IDEAS.get(name) != "D5":
        return {"name": name}
    options = SCHEDULES_OF_STAGE[name].options
    steps_of_round = round(steps * (1 - options["final_share"].default) / options["rounds"].default)
    way = rate / 2 * sum((1 - MOMENTUM**step) / (1 - MOMENTUM) for step in range(1, steps_of_round + 1))
    return {"name": name, "strength": round(PULL / way, 3)}


def conclude(table: Table) -> Verdict:
    """Compare every schedule with the single cut, at each number of steps."""
    sentences: dict[str, str] = {}
    for count in _lengths(table):
        names = [name for name in table.names if name.endswith(f"={count}")]
        sentences |= against(table, f"{BASELINE}={count}", names, where=f"after {count} steps")
    if not sentences:
        return Verdict(headline=f"{len(table.rows)} cells are measured, too few to compare.", table=_markdown(table))
    return Verdict(
        headline=_headline(table, sentences),
        sentences=tuple(sentences.values()),
        table=_markdown(table),
        ideas=_by_idea(sentences),
    )


def _headline(table: Table, sentences: Mapping[str, str]) -> str:
    """Say what each schedule gains at each length, and which of it is beyond noise."""
    parts = []
    for schedule_name in (name for name in SCHEDULES if name != BASELINE):
        found = [name for name in sentences if spoken_of(name) == schedule_name]
        gaps = [f"{_gap(table, name).text(scale=100)} after {name.partition('=')[2]} steps" for name in found]
        if found:
            parts.append(f"{spoken(found[0])} gains {' and '.join(gaps)}")
    gaps_of = {f"{spoken(name)} after {name.partition('=')[2]} steps": _gap(table, name) for name in sentences}
    better = [said for said, gap in gaps_of.items() if gap.is_above]
    worse = [said for said, gap in gaps_of.items() if gap.is_below]
    told = {"beyond noise better": better, "beyond noise worse": worse}
    tail = "; ".join(f"{how}: {', '.join(names)}" for how, names in told.items() if names)
    if all(gap.half is None for gap in gaps_of.values()):
        tail = "one seed, so nothing is known of noise"
    tail = tail or "nothing beyond noise"
    return f"Over a single cut, in points at 3 times fewer multiply-adds: {'; '.join(parts)}; {tail}."


def spoken_of(name: str) -> str:
    """Return the schedule of a cell's name."""
    return name.partition("=")[0]


def _lengths(table: Table) -> list[int]:
    return sorted({int(name.partition("=")[2]) for name in table.names})


def _gap(table: Table, name: str) -> Estimate:
    """Return what a schedule gains over the single cut, as parts of one, paired over seeds."""
    baseline = f"{BASELINE}={name.partition('=')[2]}"
    return paired(table.values(name, "test.tuned"), table.values(baseline, "test.tuned"))


def _by_idea(sentences: Mapping[str, str]) -> dict[str, str]:
    """Return, for each idea, all that is said of its schedules."""
    found: dict[str, str] = {}
    for name, sentence in sentences.items():
        idea = IDEAS[spoken_of(name)]
        found[idea] = f"{found[idea]} {sentence}" if idea in found else sentence
    return found


def _markdown(table: Table) -> str:
    head = ("", "steps", "fine-tuned", "rate", "came back", "MACs", "faster, batch 1", "batch 64")
    lines = []
    for count in _lengths(table):
        names = [name for name in table.names if name.endswith(f"={count}")]
        for name in by_mean({name: table.values(name, "test.tuned") for name in names}):
            rate, macs = f"{table.of(name)[0]['rate']:g}", factor(table, name, "macs")
            own = percent(table, name, "test.tuned")
            returned = f"{fmean(table.values(name, 'returned').values()):g}" if "soft" in name else NOTHING
            lines.append((spoken(name), str(count), own, rate, returned, macs, *speeds(table, name)))
    return f"{caption(table)} Came back: channels that did after they were switched off.\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw what each schedule gains over the single cut."""
    dots = []
    for name in table.names:
        baseline = f"{BASELINE}={name.partition('=')[2]}"
        if name != baseline and set(table.values(name, "test.tuned")) & set(table.values(baseline, "test.tuned")):
            label = f"{spoken(name)}, {name.partition('=')[2]} steps"
            dots.append(Dot.percent(label, "student", _gap(table, name)))
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
