"""Allocators at equal measured latency, and Torch-Pruning's pruner tuned to the same latency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean, median
from typing import Any

from compress.core.budget import Infeasible
from compress.core.progress import track
from compress.prune.allocators import ALLOCATORS
from compress.run import task_of
from compress.studies import Bench, Cell, Study, Table, Verdict
from compress.studies.statistics import best_of, comparison, estimate
from studies.charts import Dot, dots_chart
from studies.ideas import ids_of
from studies.protocol import (
    PAUSE_S,
    RECOVERY,
    RESNET56,
    by_seed,
    costs,
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
from studies.torch_pruning_side import Cutter, Way
from studies.turns import exported, timed_in_turns

THEIRS, BASELINE = "tp_", "uniform"
BASE: dict[str, Any] = {
    **RESNET56,
    **RECOVERY,
    "options": {
        "criterion": "taylor",
        "normalizer": "mean",
        "reach": "all",
        "trial_batches": 2,
        "runtime": "onnxruntime",
        "batch_size": 128,
        "latency_rounds": 20,
        "latency_pause_s": PAUSE_S,
    },
    "score_batches": 16,
    "test_limit": 0,
    "rounds": 40,
}
#: What allocators that ask for losses find measured already: the widths of `round_to` 16, and blocks.
CURVES: dict[str, Any] = {
    "criterion": "taylor",
    "ratios": [0.75, 0.5, 0.25],
    "recalibrate_batches": 2,
    "validation_limit": 1000,
    "batch_size": 128,
}
#: Rows of ours beside one for each allocator: whole blocks in the ranking, and the unpruned model as the teacher.
WITH_BLOCKS: dict[str, Any] = {
    "allocator": {"name": "measured_greedy", "round_to": 16},
    "units": "channels and blocks",
    "reach": "inside",
}
ALONE, CONTROL, TAUGHT = "with_blocks", "measured_greedy", "with_blocks_and_teacher"
OURS = {ALONE: WITH_BLOCKS, TAUGHT: WITH_BLOCKS}
#: Allocators that rank blocks and channels by their scores, and the end of the names of their rows with blocks.
RANKED, MIXED = ("worth_per_cost", "latency_knapsack"), "_and_blocks"
ASKS_LOSSES = (ALONE, CONTROL, TAUGHT, "sensitivity", "genetic")
IDEAS = ("A5", "C1", "D1", "D2", "D7")
LOSS: dict[str, Any] = {"name": "stage_features", "feature_weight": 100.0}
SPEEDS = (1.6, 2.0)
LATENCY_BATCHES = (1, 64)
IMPORTANCES = ("magnitude", "taylor", "geometric_median")
#: Widths that runtimes like, for both sides.
ROUND_TO = 8
#: How Torch-Pruning's pruner may be used; the way is chosen on validation data, as in study 0001. In one global ranking
#: it rounds in steps alone: cut at once, a group that rounding leaves without channels stays whole.
TP_WAYS: tuple[dict[str, Any], ...] = tuple(
    {"reach": reach, **how}
    for reach in ("all", "inside")
    for how in (
        {"steps": 1},
        {"steps": 400, "round_to": ROUND_TO},
        {"steps": 1, "round_to": ROUND_TO // 2, "is_global": False},
    )
)
#: How, for each way, the share of multiply-adds is searched that is as fast as it has to be: in each of "looks" so many
#: "shares" a way, the networks of all ways timed in turns with the uncut one, so that none has a better minute than
#: another. A time is the median over sessions, between whose parts there are pauses.
SEARCH: dict[str, Any] = {
    "ways": TP_WAYS,
    "looks": 2,
    "shares": 5,
    "search_sessions": 3,
    "search_rounds": 8,
    "search_pause_s": 1.0,
}
#: No smaller share is tried.
LEAST = 0.04


def quick() -> Iterator[Cell]:
    """Twice as fast at batch 1: five rows, one seed, one learning rate, 2,000 test images."""
    curves = {**CURVES, "recalibrate_batches": 1, "validation_limit": 500}
    options = {**BASE["options"], "latency_rounds": 12, "trial_batches": 1, "trial_images": 500}
    base = {**BASE, "options": options, "rates": [0.01], "test_limit": 2000, "rounds": 10}
    yield from grid(
        base,
        curves=curves,
        search={**SEARCH, "ways": [way for way in TP_WAYS if way["steps"] == 1], "search_sessions": 1},
        ours={BASELINE: _rounded(BASELINE), CONTROL: _rounded(CONTROL), **OURS},
        theirs=("taylor",),
        aims=((2.0, 1),),
        seeds=(0,),
    )


def full() -> Iterator[Cell]:
    """All allocators, with and without blocks, at 1.6 and 2 times the speed, at batch 1 and 64, three seeds."""
    ours = {name: _rounded(name) for name in ALLOCATORS}
    ours |= {f"{name}{MIXED}": {**WITH_BLOCKS, "normalizer": "none", **_rounded(name)} for name in RANKED}
    ours |= OURS
    aims = tuple((speed, batch) for speed in SPEEDS for batch in LATENCY_BATCHES)
    yield from by_seed(
        grid(BASE, curves=CURVES, search=SEARCH, ours=ours, theirs=IMPORTANCES, aims=aims, seeds=(0, 1, 2))
    )


def _rounded(allocator: str) -> dict[str, Any]:
    return {"allocator": {"name": allocator, "round_to": ROUND_TO}}


def grid(
    base: Mapping[str, Any],
    *,
    curves: Mapping[str, Any],
    search: Mapping[str, Any],
    ours: Mapping[str, Mapping[str, Any]],
    theirs: Sequence[str],
    aims: Sequence[tuple[float, int]],
    seeds: Sequence[int],
) -> Iterator[Cell]:
    """Yield our allocators and their importances for every speed and batch."""
    for speed, batch in aims:
        aim = {"speed": speed, "batch": batch}
        for name, own in ours.items():
            options = {**base["options"], **own, "budget": f"latency_ms={1 / speed:.4g}", "latency_batch": batch}
            more = {"curves": curves} if name in ASKS_LOSSES else {}
            more |= {"loss": LOSS} if name == TAUGHT else {}
            settings = {**base, **more, "options": options, "aim": aim}
            yield from seeded_cells(_name(name, speed, batch), settings, seeds)
        for name in theirs:
            settings = {**base, "importance": name, **search, "aim": aim}
            yield from seeded_cells(_name(f"{THEIRS}{name}", speed, batch), settings, seeds)


def _name(name: str, speed: float, batch: int) -> str:
    return f"{name}={speed:g}x,b{batch}"


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Cut by the stage under a latency budget, or by Torch-Pruning to the multiply-adds that are as fast; recover."""
    settings = cell.settings
    task = task_of(settings["task"])
    ref = start_of(bench, settings, task)
    start = store_of(bench).get(ref).model
    earlier = next(iter(bench.found.values()), None)
    if earlier is not None and "unreachable" in earlier:
        return dict(earlier)
    rates = settings["rates"] if earlier is None else [earlier["rate"]]
    if "importance" in settings:
        sizes = {"batches": settings["score_batches"], "batch_size": settings["batch_size"], "seed": cell.seed}
        cutter = Cutter(start, task, settings["importance"], **sizes)
        tuned_to_it = partial(_fast_enough, cell, bench, cutter)
        found = bench.once("found", tuned_to_it) if earlier is None else earlier["found"]
        if not found:
            return {"unreachable": f"no network of Torch-Pruning's is {settings['aim']['speed']:g} times as fast"}
        cut, dropped = cutter(found["share"], Way(**found["way"])), 0
    else:
        curves = settings.get("curves")
        try:
            entry = cut_by_stage(bench, ref, task, settings["options"], seed=cell.seed, curves=curves)
        except Infeasible as error:
            return {"unreachable": str(error)}
        cut, dropped, found = entry.model, len(entry.report["dropped"]), {}
    teacher = start if "loss" in settings else None
    final, judged = recovery(bench, cut, task, settings, seed=cell.seed, rates=rates, teacher=teacher)
    size = bench.once("costs", lambda: costs(start, final, rounds=settings["rounds"]))
    return {**judged, **size, "found": found, "dropped": dropped}


def _fast_enough(cell: Cell, bench: Bench, cutter: Cutter) -> dict[str, Any]:
    """Return, of all ways at the largest share that is fast enough, the best by validation after recalibration.

    Nothing when no way is fast enough.
    """
    settings, limit = cell.settings, 1 / cell.settings["aim"]["speed"]
    ways = {"-".join(str(value) for value in way.values()): way for way in settings["ways"]}
    times: dict[str, dict[float, float | None]] = {name: {} for name in ways}
    for number in range(settings["looks"]):
        wanted = {name: next_shares(times[name], limit, settings["shares"]) for name in ways}
        for name, found in bench.once(f"times-{number}", partial(_times, cutter, ways, wanted, settings)).items():
            times[name] |= dict(zip(wanted[name], found, strict=True))
    judged = []
    for name, way in ways.items():
        if share := max((share for share, spent in times[name].items() if (spent or 1.0) <= limit), default=0.0):
            judge = partial(_judged, cell, cutter, share, Way(**way))
            judged.append({"share": share, "way": way, "accuracy": bench.once(f"accuracy-{name}", judge)})
    if not judged:
        return {}
    return {**max(judged, key=lambda one: one["accuracy"]), "ways": judged}


def next_shares(times: Mapping[float, float | None], limit: float, num: int) -> list[float]:
    """Return the shares to time next, in equal ratios between the largest that is fast enough and the next one.

    Args:
        times: By share, in parts of the whole network's; None where so small a share cannot be reached.
        limit: Largest time that is fast enough.
        num: How many.

    >>> [round(share, 2) for share in next_shares({0.1: None, 0.2: 0.4, 0.8: 0.6}, 0.5, 1)]
    [0.4]
    """
    low = max((share for share, spent in times.items() if spent is None or spent <= limit), default=LEAST)
    high = min((share for share in times if share > low), default=1.0)
    return [low * (high / low) ** (number / (num + 1)) for number in range(1, num + 1)]


def _times(
    cutter: Cutter, ways: Mapping[str, Any], wanted: Mapping[str, Sequence[float]], settings: Mapping[str, Any]
) -> dict[str, list[float | None]]:
    """Return by way the latencies at its shares in parts of the uncut network's; None where a share is out of reach."""
    x_BCHW = cutter.model.input.example(settings["aim"]["batch"]).numpy()
    networks = {"uncut": cutter.model}
    for name in track(wanted, total=len(wanted), what="cut by Torch-Pruning in all ways"):
        cuts = cutter.several(wanted[name], Way(**ways[name]))
        networks |= {f"{name}-{number}": cut for number, cut in enumerate(cuts) if cut is not None}
    timing = {"rounds": settings["search_rounds"], "pause_s": settings["search_pause_s"]}
    with exported(networks) as files:
        found = [timed_in_turns(files, x_BCHW, **timing) for _ in range(settings["search_sessions"])]
    spent = {name: median(times.ratio(name, "uncut").value for times in found) for name in networks}
    return {name: [spent.get(f"{name}-{number}") for number in range(len(wanted[name]))] for name in wanted}


def _judged(cell: Cell, cutter: Cutter, share: float, way: Way) -> float:
    """Return the validation accuracy of one way after recalibration."""
    cut = recalibrated(cutter(share, way), cutter.task, cell.settings, seed=cell.seed)
    return on_validation(cut.module, cutter.task, limit=cell.settings["test_limit"])


def conclude(table: Table) -> Verdict:
    """At each speed: our best with their best, what blocks and the teacher add, and every allocator with uniform."""
    sentences: list[str] = []
    ideas: dict[str, list[str]] = {}
    for tail in _aims(table):
        tuned, where = _reached(table, tail), f"at {_said(tail)}"
        compared = partial(_compared, table, tuned, tail)
        taught, theirs = f"{TAUGHT}{tail}", [name for name in tuned if name.startswith(THEIRS)]
        ours = [name for name in tuned if name not in (*theirs, taught)]
        if theirs:
            rival = _best(table, theirs)
            for name in ([_best(table, ours)] if ours else []) + [taught]:
                sentences += compared(name, rival)
        lost = [name for name in table.names if name.endswith(tail) and name not in tuned]
        pairs = [(ALONE, CONTROL), *((f"{name}{MIXED}", name) for name in RANKED)]
        blocks = [said for mixed, plain in pairs for said in compared(f"{mixed}{tail}", f"{plain}{tail}")]
        ideas.setdefault("A5", []).extend(blocks)
        ideas.setdefault("D7", []).extend(compared(f"{ALONE}{tail}", f"{BASELINE}{tail}"))
        sentences += [*blocks, *compared(taught, f"{ALONE}{tail}")]
        for name in (name for name in ours if name != f"{BASELINE}{tail}"):
            found = compared(name, f"{BASELINE}{tail}")
            sentences += found
            for idea in _ideas_of(name):
                ideas.setdefault(idea, []).extend(found)
        for name in (name for name in lost if f"{BASELINE}{tail}" in tuned):
            found = [f"No network of {spoken(name)} is found {where}; of {BASELINE} one is."]
            for idea in _ideas_of(name):
                ideas.setdefault(idea, []).extend(found)
        sentences += [f"Out of reach {where}: {', '.join(map(spoken, lost))}."] if lost else []
    sentences = sentences or [f"{len(table.rows)} cells are measured, too few to compare."]
    said = {idea: " ".join(ideas.get(idea, ())) for idea in IDEAS}
    headline = sentences[0][:1].upper() + sentences[0][1:]
    return Verdict(headline=headline, sentences=tuple(sentences[1:]), table=_markdown(table), ideas=said)


def _compared(table: Table, tuned: Mapping[str, dict[int, float]], tail: str, name: str, other: str) -> list[str]:
    """Return the sentence on two rows, or nothing where they have no seed in common."""
    if not set(tuned.get(name, ())) & set(tuned.get(other, ())):
        return []
    is_short = len(table.of(other)[0].cell.settings.get("ways", TP_WAYS)) < len(TP_WAYS)
    rival = f"{spoken(other)}, searched briefly," if is_short else spoken(other)
    path = f"faster.onnxruntime, batch {tail.partition(',b')[2]}.value"
    measured = " and ".join(f"{fmean(table.values(row, path).values()):.2f}x" for row in (name, other))
    where = f"at {_said(tail).removesuffix(')')}; in the end {measured})"
    return [comparison(spoken(name), tuned[name], rival, tuned[other], where=where)]


def _ideas_of(name: str) -> list[str]:
    """Return the ideas on the card of the allocator that a row is named after; none for other rows."""
    kind = name.partition("=")[0]
    return ids_of(ALLOCATORS[kind].idea) if kind in ALLOCATORS else []


def _best(table: Table, names: Sequence[str]) -> str:
    """Return the name that validation data puts first, by the seeds that all of them have."""
    judged = {name: table.values(name, "validation.tuned") for name in names}
    shared = set.intersection(*(set(values) for values in judged.values()))
    return best_of({name: {seed: values[seed] for seed in shared} for name, values in judged.items()})


def _aims(table: Table) -> list[str]:
    """Return the ends of names, one for each speed and batch, in the order of the cells."""
    return list(dict.fromkeys(f"={name.partition('=')[2]}" for name in table.names))


def _reached(table: Table, tail: str) -> dict[str, dict[int, float]]:
    """Return the test accuracies by name and seed of those that got that fast."""
    values = {name: table.values(name, "test.tuned") for name in table.names if name.endswith(tail)}
    return {name: found for name, found in values.items() if found}


def _said(tail: str) -> str:
    """Return the aim in words.

    >>> _said("=2x,b64")
    '2x the speed (batch 64)'
    """
    speed, _, batch = tail.removeprefix("=").partition(",b")
    return f"{speed} the speed (batch {batch})"


def _markdown(table: Table) -> str:
    head = ("", "wanted", "fine-tuned", "faster, batch 1", "batch 64", "MACs", "speed ÷ MACs", "blocks gone", "rate")
    lines = []
    for tail in _aims(table):
        batch = tail.partition(",b")[2]
        for name in by_mean(_reached(table, tail)):
            row = table.of(name)[0]
            yields = fmean(
                table.values(name, f"faster.onnxruntime, batch {batch}.value")[seed] / macs
                for seed, macs in table.values(name, "macs").items()
            )
            own = percent(table, name, "test.tuned")
            end = (factor(table, name, "macs"), f"{yields:.2f}", f"{row['dropped']:g}", f"{row['rate']:g}")
            lines.append((spoken(name), _said(tail), own, *speeds(table, name), *end))
    return f"{caption(table)}\n\n{markdown(head, lines)}"


def figures(table: Table) -> dict[str, str]:
    """Draw the accuracy after fine-tuning, one figure a speed and batch."""
    found = {}
    for tail in _aims(table):
        dots = []
        for name in by_mean(_reached(table, tail)):
            one = estimate(list(table.values(name, "test.tuned").values()))
            kind = "int8" if name.startswith(THEIRS) else "teacher" if name.startswith(BASELINE) else "student"
            dots.append(Dot.percent(spoken(name), kind, one))
        name = tail.removeprefix("=").replace(",", "-")
        found[name] = dots_chart(f"Fine-tuned, at {_said(tail)}", "test accuracy, %", dots)
    return found


STUDY = Study(
    title="How much should each layer lose, if what counts is measured latency?",
    ideas=IDEAS,
    presets={"quick": quick, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
