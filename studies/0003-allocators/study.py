"""Allocators at equal measured latency, and Torch-Pruning's pruner tuned to the same latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean, median
from typing import Any

from compress.core.budget import Infeasible
from compress.core.stage import Entry
from compress.measure.clock import Clock
from compress.measure.runtimes import RUNTIMES
from compress.prune.allocators import ALLOCATORS
from compress.run import task_of
from compress.studies import Bench, Cell, Study, Table, Verdict
from compress.studies.statistics import best_of, comparison, estimate
from studies.charts import Dot, dots_chart
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
WITHOUT_BLOCKS = {**WITH_BLOCKS, "units": "channels", "reach": "all"}
ALONE, CONTROL, TAUGHT = "with_blocks", "without_blocks", "with_blocks_and_teacher"
ASKS_LOSSES = (ALONE, CONTROL, TAUGHT, "measured_greedy", "sensitivity", "genetic")
#: What judges an idea, in words for where it is not measured.
JUDGES = {
    "A5": "a ranking with blocks against one without",
    "C1": "threshold_line",
    "D1": "compound",
    "D2": "genetic",
    "D7": "latency_knapsack",
}
OURS = {ALONE: WITH_BLOCKS, CONTROL: WITHOUT_BLOCKS, TAUGHT: WITH_BLOCKS}
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
#: How, for each way, the share of multiply-adds is searched that is as fast as it has to be: "tries" are measurements.
#: A time is the median over sessions, since one session in a while is far off as a whole.
SEARCH: dict[str, Any] = {"ways": TP_WAYS, "tries": 8, "search_sessions": 3, "search_rounds": 10}
#: An interval of shares this small is not searched further.
SMALLEST = 0.01
#: A time within the limit and above this part of it ends the search.
CLOSE = 0.97


def quick() -> Iterator[Cell]:
    """Twice as fast at batch 1: five rows, one seed, one learning rate, 2,000 test images."""
    curves = {**CURVES, "recalibrate_batches": 1, "validation_limit": 500}
    options = {**BASE["options"], "latency_rounds": 12, "trial_batches": 1, "trial_images": 500}
    base = {**BASE, "options": options, "rates": [0.01], "test_limit": 2000, "rounds": 10}
    yield from grid(
        base,
        curves=curves,
        search={**SEARCH, "ways": [way for way in TP_WAYS if way["steps"] == 1], "tries": 5, "search_rounds": 5},
        ours={BASELINE: _rounded(BASELINE), **OURS},
        theirs=("taylor",),
        aims=((2.0, 1),),
        seeds=(0,),
    )


def full() -> Iterator[Cell]:
    """All allocators at 1.6 and 2 times the speed, at batch 1 and 64, three seeds."""
    ours = {name: _rounded(name) for name in ALLOCATORS}
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
    settings, options = cell.settings, cell.settings["options"]
    runtime, aim = RUNTIMES.bind("onnxruntime"), settings["aim"]
    timing = {"rounds": settings["search_rounds"], "pause_s": options["latency_pause_s"]}
    found = []
    with Clock.against(Entry.of(cutter.model), runtime, batch=aim["batch"], **timing) as clock:
        for way in settings["ways"]:
            name = "-".join(str(value) for value in way.values())

            def timed(share: float, number: int, way: Mapping[str, Any] = way, name: str = name) -> float | None:
                time = partial(_time, cutter, clock, share, Way(**way), sessions=settings["search_sessions"])
                return bench.once(f"time-{name}-{number}", time)

            if share := largest_share(timed, 1 / aim["speed"], tries=settings["tries"]):
                judge = partial(_judged, cell, cutter, share, Way(**way))
                found.append({"share": share, "way": way, "accuracy": bench.once(f"accuracy-{name}", judge)})
    if not found:
        return {}
    best = max(found, key=lambda one: one["accuracy"])
    return {**best, "ways": found}


def largest_share(timed: Callable[[float, int], float | None], limit: float, *, tries: int) -> float:
    """Return the largest share found whose time is within `limit`, 0 for none.

    The interval between a share that is too slow and one that is fast enough is cut where the line between both meets
    the limit; in the middle as long as none is fast enough, and when the last two cuts were on the same side.

    Args:
        timed: (share in (0, 1), number of the try) -> time in parts of the whole network's, or None where so small a
            share cannot be reached.
        limit: In the same parts.
        tries: Most calls of `timed`.

    >>> round(largest_share(lambda share, number: 0.1 + 0.9 * share, 0.55, tries=8), 2)
    0.49
    """
    wanted = (1 + CLOSE) / 2 * limit
    low, high, share = 0.0, 1.0, wanted
    fitting, slowest = None, 1.0
    sides: list[bool] = []
    for number in range(tries):
        spent = timed(share, number)
        sides.append(spent is None or spent <= limit)
        if spent is None:
            low = share
        elif spent <= limit:
            low, fitting = share, spent
        else:
            high, slowest = share, spent
        if high - low < SMALLEST or (spent is not None and CLOSE * limit <= spent <= limit):
            break
        is_stuck = sides[-2:] in ([True, True], [False, False])
        part = 0.5 if fitting is None or is_stuck else (wanted - fitting) / max(slowest - fitting, 1e-9)
        share = low + min(0.9, max(0.1, part)) * (high - low)
    return 0.0 if fitting is None else low


def _judged(cell: Cell, cutter: Cutter, share: float, way: Way) -> float:
    """Return the validation accuracy of one way after recalibration."""
    cut = recalibrated(cutter(share, way), cutter.task, cell.settings, seed=cell.seed)
    return on_validation(cut.module, cutter.task, limit=cell.settings["test_limit"])


def _time(cutter: Cutter, clock: Clock, share: float, way: Way, *, sessions: int) -> float | None:
    """Return the latency in parts of the uncut network's; None where nothing so small can be reached."""
    try:
        cut = cutter(share, way)
    except ValueError:
        return None
    return float(median(clock.measure(cut)["ratio"] for _ in range(sessions)))


def conclude(table: Table) -> Verdict:
    """At each speed: our best with their best, what blocks and the teacher add, and every allocator with uniform."""
    sentences: list[str] = []
    ideas: dict[str, list[str]] = {}
    for tail in _aims(table):
        tuned, where = _reached(table, tail), f"at {_said(tail)}"
        compared = partial(_compared, table, tuned, where)
        taught, theirs = f"{TAUGHT}{tail}", [name for name in tuned if name.startswith(THEIRS)]
        ours = [name for name in tuned if name not in (*theirs, taught)]
        if theirs:
            rival = _best(table, theirs)
            for name in ([_best(table, ours)] if ours else []) + [taught]:
                sentences += compared(name, rival)
        lost = [spoken(name) for name in table.names if name.endswith(tail) and name not in tuned]
        out = [f"Out of reach {where}: {', '.join(lost)}."] if lost else []
        blocks = compared(f"{ALONE}{tail}", f"{CONTROL}{tail}")
        if spoken(CONTROL) in lost and f"{ALONE}{tail}" in tuned:
            blocks = [f"Without blocks no network is found {where}; with blocks one is."]
        ideas.setdefault("A5", []).extend(blocks)
        ideas.setdefault("D7", []).extend(compared(f"{ALONE}{tail}", f"{BASELINE}{tail}"))
        sentences += [*blocks, *compared(taught, f"{ALONE}{tail}")]
        for name in ours:
            found = compared(name, f"{BASELINE}{tail}") if name != f"{BASELINE}{tail}" else []
            sentences += found
            kind = name.partition("=")[0]
            for idea in ALLOCATORS[kind].idea.split(",") if kind in ALLOCATORS and found else ():
                ideas.setdefault(idea.strip(), []).extend(found)
        sentences += out
    if not sentences:
        return Verdict(headline=f"{len(table.rows)} cells are measured, too few to compare.")
    said = {idea: " ".join(ideas.get(idea, ())) or f"{judge} is not measured yet." for idea, judge in JUDGES.items()}
    headline = sentences[0][:1].upper() + sentences[0][1:]
    return Verdict(headline=headline, sentences=tuple(sentences[1:]), table=_markdown(table), ideas=said)


def _compared(table: Table, tuned: Mapping[str, dict[int, float]], where: str, name: str, other: str) -> list[str]:
    """Return the sentence on two rows, or nothing where they have no seed in common."""
    if not set(tuned.get(name, ())) & set(tuned.get(other, ())):
        return []
    is_short = table.of(other)[0].cell.settings.get("tries", SEARCH["tries"]) < SEARCH["tries"]
    rival = f"{spoken(other)}, searched briefly," if is_short else spoken(other)
    return [comparison(spoken(name), tuned[name], rival, tuned[other], where=where)]


def _best(table: Table, names: Sequence[str]) -> str:
    """Return the name that validation data puts first."""
    return best_of({name: table.values(name, "validation.tuned") for name in names})


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
    ideas=("A5", "C1", "D1", "D2", "D7"),
    presets={"quick": quick, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
)
