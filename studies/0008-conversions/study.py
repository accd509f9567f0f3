"""Convolutions made cheaper in kind, against fewer channels of the same kind, at equal multiply-adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from compress.core.budget import Infeasible
from compress.core.journal import Journal
from compress.core.model import Model
from compress.core.random import derived_seed
from compress.core.stage import Ref
from compress.core.task import Task
from compress.measure.paired import Ratio
from compress.measure.runtimes import RUNTIMES
from compress.prune.conversions import CONVERSIONS
from compress.prune.converting import Referee, convert
from compress.run import task_of
from compress.studies import Bench, Cell, Study, Table, Verdict
from compress.studies.statistics import Estimate, comparison, estimate, paired
from compress.train.fit import fit
from compress.train.recipes import RECIPES
from compress.train.settings import FitConfig
from studies.charts import Dot, dots_chart
from studies.protocol import (
    RECOVERY,
    RESNET56,
    by_seed,
    costs,
    cut_by_stage,
    data_of,
    on_test,
    on_validation,
    recalibrated,
    recovery,
    start_of,
    store_of,
)
from studies.tables import NOTHING, caption, factor, markdown, percent, speeds

#: What stands in front of a conversion's name where it is not faded in, and where channels are cut instead.
AT_ONCE, CHANNELS = "at_once=", "channels="
#: By the name of a row: the piece of CONVERSIONS that makes it.
KINDS: dict[str, dict[str, Any]] = {
    "grouped": {"name": "grouped", "groups": 4},
    "depthwise_separable": {"name": "decoupled", "pairs": 1},
    "decoupled": {"name": "decoupled", "energy": 0.9},
    "low_rank": {"name": "low_rank", "energy": 0.9},
    "separable": {"name": "separable", "energy": 0.9},
}
#: Those that are also converted at once, to see what the fading adds.
ALSO_AT_ONCE = ("grouped", "depthwise_separable")
#: How channels may be cut; 2 % of a group stay at least, which lets them get as far down as a conversion does.
KEPT = {"min_kept_ratio": 0.02}
MAGNITUDE: dict[str, Any] = {"criterion": "magnitude", "normalizer": "max", "allocator": {"name": "global", **KEPT}}
WAYS: tuple[dict[str, Any], ...] = (
    {**MAGNITUDE, "reach": "inside"},
    {**MAGNITUDE, "reach": "all"},
    {**MAGNITUDE, "reach": "all", "criterion": "taylor", "normalizer": "mean"},
    {**MAGNITUDE, "reach": "all", "allocator": {"name": "uniform", **KEPT}},
)
BASE: dict[str, Any] = {
    **RESNET56,
    **RECOVERY,
    "steps": 314,
    "share": 0.5,
    "ways": list(WAYS),
    "choose_images": 2000,
    "score_batches": 16,
    "runtime": "onnxruntime",
    "latency_rounds": 20,
    "test_limit": 0,
    "rounds": 40,
}
SMALL: dict[str, Any] = {"builder": {"name": "resnet_cifar", "depth": 20}, "weights": "resnet20_cifar10.npz"}


def quick() -> Iterator[Cell]:
    """ResNet-20, two conversions judged at batch 64, 80 steps, one seed, 2,000 test images."""
    base = {**BASE, **SMALL, "steps": 80, "latency_rounds": 6, "choose_images": 500, "test_limit": 2000, "rounds": 5}
    kinds = ("depthwise_separable", "grouped")
    yield from grid(base, kinds=kinds, at_once=kinds[:1], batches=(64,), seeds=(0,))


def cpu() -> Iterator[Cell]:
    """ResNet-56, all conversions judged at batch 64, half the steps, three seeds."""
    base = {**BASE, "steps": 156, "latency_rounds": 12}
    yield from by_seed(grid(base, kinds=tuple(KINDS), at_once=ALSO_AT_ONCE, batches=(64,), seeds=(0, 1, 2)))


def full() -> Iterator[Cell]:
    """ResNet-56, all conversions, judged at batch 1 and 64, three seeds."""
    yield from by_seed(grid(BASE, kinds=tuple(KINDS), at_once=ALSO_AT_ONCE, batches=(1, 64), seeds=(0, 1, 2)))


def grid(
    base: Mapping[str, Any],
    *,
    kinds: Sequence[str],
    at_once: Sequence[str],
    batches: Sequence[int],
    seeds: Sequence[int],
) -> Iterator[Cell]:
    """Yield every conversion faded in; its first cell decides on layers, the other cells come after it."""
    for batch in batches:
        for kind in kinds:
            own = {**base, "conversion": KINDS[kind], "latency_batch": batch}
            name = f"{kind}=b{batch}"
            decides = f"{name}@{seeds[0]}"
            arms = {name: own, f"{CHANNELS}{name}": own}
            if kind in at_once:
                arms[f"{AT_ONCE}{name}"] = {**own, "share": 0.0}
            for arm, settings in arms.items():
                first = Cell(name=arm, seed=seeds[0], settings=settings, after=() if arm == name else (decides,))
                yield first
                after = tuple(dict.fromkeys((decides, first.label)))
                for seed in seeds[1:]:
                    yield Cell(name=arm, seed=seed, settings=settings, after=after)


def run(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Convert what gets faster, or cut channels to what the conversion left; then fine-tune as many steps."""
    settings, task = cell.settings, task_of(cell.settings["task"])
    ref = start_of(bench, settings, task)
    start = store_of(bench).get(ref).model
    decided = bench.found[cell.after[0]] if cell.after else {}
    own = next((found for label, found in bench.found.items() if label.startswith(f"{cell.name}@")), {})
    for end in ("refused", "unreachable"):
        if end in decided or end in own:
            return {end: (own or decided)[end]}
    rates = [own["rate"]] if own else settings["rates"]
    if cell.name.startswith(CHANNELS):
        ways = [own["way"]] if own else settings["ways"]
        cut, more = _cut(cell, bench, ref, task, ways, decided["macs"])
        if cut is None:
            return more
        final, judged = recovery(bench, cut, task, settings, seed=cell.seed, rates=rates)
    else:
        referee = _referee(bench, settings, decided.get("ratios", ()))
        model, report = convert(start, CONVERSIONS.from_json(settings["conversion"]), referee=referee)
        more = _decision(report, decided) | {"ratios": referee.given}
        if not more["converted"]:
            return {"refused": more["reasons"], **more}
        way = partial(_faded, told=referee.given) if settings["share"] else recovery
        given = start if settings["share"] else model
        final, judged = way(bench, given, task, settings, seed=cell.seed, rates=rates)
    rounds = 0 if own or cell.name.startswith(AT_ONCE) else settings["rounds"]
    return {**judged, **more, **bench.once("costs", lambda: costs(start, final, rounds=rounds))}


@dataclass(frozen=True)
class Remembering(Referee):
    """Answers as in the cell that decided, and measures what was not asked there; `convert` asks in a fixed order.

    Attributes:
        told: Answers of the cell that decided, in its order.
        given: Answers so far.
    """

    told: Sequence[Mapping[str, float]] = ()
    given: list[Mapping[str, float]] = field(default_factory=list)

    def ratio(self, numerator: Model, denominator: Model) -> Ratio:
        """Return how many times longer `numerator` takes than `denominator`."""
        number = len(self.given)
        found = Ratio(**self.told[number]) if number < len(self.told) else super().ratio(numerator, denominator)
        self.given.append(found.as_json())
        return found


def _referee(bench: Bench, settings: Mapping[str, Any], told: Sequence[Mapping[str, float]]) -> Remembering:
    runtime, journal = RUNTIMES.bind(settings["runtime"]), Journal(bench.scratch / "referee.jsonl")
    rounds, batch = settings["latency_rounds"], settings["latency_batch"]
    return Remembering(runtime, batch=batch, rounds=rounds, journal=journal, told=told)


def _decision(report: Mapping[str, Any], decided: Mapping[str, Any]) -> dict[str, Any]:
    """Return which shapes were converted, and why others were not; the same as in the cell that decided."""
    layers = report["layers"].values()
    found = {
        "offered": len(layers),
        "converted": report["num_converted"],
        "shapes": sorted({row["shape"] for row in layers if row["is_converted"]}),
        "reasons": dict(Counter(_short(row["reason"]) for row in layers if not row["is_converted"])),
    }
    if decided and any(found[key] != decided[key] for key in ("converted", "shapes")):
        raise ValueError(
            f"the conversion takes {found['shapes']} here and took {decided['shapes']} in the cell that decided: code "
            f"or weights are not those of that cell. Delete its record in the study's workspace and measure it again."
        )
    return found


def _short(reason: str) -> str:
    """Return a reason without its measurements.

    >>> _short("it would have 640 weights instead of 576"), _short("nothing to convert")
    ('no fewer weights', 'nothing to convert')
    """
    if reason.startswith("not faster: with all"):
        return "faster by its shape, but not faster all together"
    if reason.startswith("not faster"):
        return "not faster"
    return "no fewer weights" if reason.startswith("it would have") else reason


def _cut(
    cell: Cell, bench: Bench, ref: Ref, task: Task, ways: Sequence[Mapping[str, Any]], macs: float
) -> tuple[Model | None, dict[str, Any]]:
    """Cut channels to `macs` times fewer multiply-adds in the way that is best on validation images; None for none."""
    settings, found, refusals = cell.settings, {}, []
    sizes = {"score_batches": settings["score_batches"], "batch_size": settings["batch_size"]}
    for number, way in enumerate(ways):
        options = {**sizes, **way, "budget": f"macs={1 / macs:.5f}"}
        try:
            found[number] = cut_by_stage(bench, ref, task, options, seed=cell.seed).model
        except Infeasible as error:
            refusals.append(str(error))
    if not found:
        return None, {"unreachable": refusals[-1]}

    def judged(number: int) -> float:
        plain = recalibrated(found[number], task, settings, seed=cell.seed)
        return on_validation(plain.module, task, limit=settings["choose_images"])

    scores = {number: bench.once(f"way-{number}", partial(judged, number)) for number in found}
    best = max(scores, key=lambda number: scores[number])
    return found[best], {"way": ways[best], "ways": [[way, scores.get(number)] for number, way in enumerate(ways)]}


def _faded(
    bench: Bench,
    start: Model,
    task: Task,
    settings: Mapping[str, Any],
    *,
    seed: int,
    rates: Sequence[float],
    told: Sequence[Mapping[str, float]],
) -> tuple[Model, dict[str, Any]]:
    """Fade a conversion in at every rate, and judge what is best on validation images; `told` decides on layers."""
    found = {rate: _fade(bench, start, task, settings, rate, seed=seed, told=told) for rate in rates}
    best = max(rates, key=lambda rate: found[rate][1])
    final = found[best][0]
    return final, {
        "test": {"tuned": bench.once("test-tuned", lambda: on_test(final.module, task, limit=settings["test_limit"]))},
        "validation": {"tuned": found[best][1]},
        "rate": best,
        "rates": {f"{rate:g}": found[rate][1] for rate in rates},
    }


def _fade(
    bench: Bench,
    start: Model,
    task: Task,
    settings: Mapping[str, Any],
    rate: float,
    *,
    seed: int,
    told: Sequence[Mapping[str, float]],
) -> tuple[Model, float]:
    """Fade, recalibrate and fine-tune, in the parts that the stage `prune` makes of it where nothing has to be cut."""
    config = FitConfig(
        recipe=RECIPES.bind("sgd_cosine", lr=rate),
        max_steps=round(settings["steps"] * settings["share"]),
        batch_size=settings["batch_size"],
        precision=settings["precision"],
        select="last",
        seed=seed,
    )
    fits = []

    def train(fading: Model, _: float, on_step: Callable[[nn.Module, float], None]) -> Model:
        def taps(module: nn.Module, progress: float) -> dict[str, Any]:
            on_step(module, progress)
            return {}

        fits.append(fit(fading.module, task, config, scratch=bench.scratch, what=f"fade at {rate:g}", taps=taps))
        return fading

    piece, share = CONVERSIONS.from_json(settings["conversion"]), settings["share"]
    faded, _ = convert(start, piece, referee=_referee(bench, settings, told), train=train, share=share)
    model = recalibrated(faded, task, settings, seed=seed)
    steps, more = settings["steps"] - config.max_steps, derived_seed(seed, "part", 1)
    config = replace(config, max_steps=steps, select="best validation", seed=more)
    fits.append(fit(model.module, task, config, scratch=bench.scratch, what=f"fine-tune at {rate:g}"))
    assert sum(one.num_steps for one in fits) == settings["steps"], "both arms train equally long"
    return model, fits[-1].validation_accuracy


def conclude(table: Table) -> Verdict:
    """Compare every conversion with channels cut to as many multiply-adds, and with the same one at once."""
    gaps: dict[str, Estimate] = {}
    sentences, fading, ends = [], [], []
    for name in (name for name in table.names if "=" not in name.partition("=b")[0]):
        own, cut, plain = (table.values(f"{arm}{name}", "test.tuned") for arm in ("", CHANNELS, AT_ONCE))
        if why := table.of(name)[0].result.get("refused"):
            reasons = "; ".join(f"{reason} ({count} layer{'s' * (count > 1)})" for reason, count in why.items())
            ends.append(f"No layer becomes {_said(name)}: {reasons}.")
            continue
        if set(own) & set(cut):
            gaps[_said(name)] = paired(own, cut)
            sentences.append(comparison(_said(name), own, "cut channels", cut, where=_where(table, name)))
        if set(own) & set(plain):
            fading.append(comparison(f"{_said(name)} faded in", own, "the same at once", plain))
        for row in (row for row in table.of(f"{CHANNELS}{name}")[:1] if "unreachable" in row.result):
            ends.append(f"Cut channels cannot get down to what {_said(name)} leaves: {row['unreachable']}")
    sentences = [one[:1].upper() + one[1:] for one in (*sentences, *fading)] + ends
    if not sentences:
        return Verdict(headline=f"{len(table.rows)} cells are measured, too few to compare.")
    if sure := {name: gap for name, gap in gaps.items() if gap.half is not None}:
        sentences = [_headline(sure), *sentences]
    ideas = {"D4": " ".join(sentences)}
    return Verdict(headline=sentences[0], sentences=tuple(sentences[1:]), table=_markdown(table), ideas=ideas)


def _headline(gaps: Mapping[str, Estimate]) -> str:
    """Return who is better than cut channels beyond noise, who is worse, and of whom nothing can be said."""
    ahead = [name for name, gap in gaps.items() if gap.is_above]
    behind = [name for name, gap in gaps.items() if gap.is_below]
    rest = [name for name in gaps if name not in (*ahead, *behind)]
    parts = {"better": ahead, "worse": behind, "not decided": rest}
    said = "; ".join(f"{verb}: {', '.join(names)}" for verb, names in parts.items() if names)
    return f"Against cut channels at no more multiply-adds and equal training steps, in test accuracy, {said}."


def _said(name: str) -> str:
    """Return a row's name in words.

    >>> _said("low_rank=b64")
    'low rank (judged at batch 64)'
    """
    _, kind, batch = _parts(name)
    return f"{kind} (judged at batch {batch})"


def _where(table: Table, name: str) -> str:
    """Return how many multiply-adds a conversion saves, and how fast it and the cut network are."""
    speed = f"faster.onnxruntime, batch {_parts(name)[2]}.value"
    asked = [(row, path) for path in ("macs", speed) for row in (name, f"{CHANNELS}{name}")]
    macs, macs_cut, own, cut = (factor(table, *one).replace("×", "x") for one in asked)
    return f"at {macs} against {macs_cut} fewer multiply-adds and {own} against {cut} the speed"


def _markdown(table: Table) -> str:
    head = ("", "judged at", "fine-tuned", "rate", "MACs", "faster, batch 1", "batch 64", "layers", "way")
    lines = []
    for name in table.names:
        row = table.of(name)[0].result
        arm, kind, batch = _parts(name)
        if "test" not in row:
            continue
        said = {CHANNELS: f"channels, as many as {kind} left", AT_ONCE: f"{kind}, at once"}.get(arm, kind)
        own = percent(table, name, "test.tuned"), f"{row['rate']:g}", factor(table, name, "macs")
        layers = f"{row['converted']} of {row['offered']}" if "offered" in row else NOTHING
        way = row.get("way")
        how = f"{way['criterion']}, {way['allocator']['name']}, reach {way['reach']}" if way else NOTHING
        lines.append((said, f"batch {batch}", *own, *speeds(table, name), layers, how))
    return f"{caption(table)}\n\n{markdown(head, lines)}"


def _parts(name: str) -> tuple[str, str, str]:
    """Return arm, conversion and batch of a row.

    >>> _parts("at_once=low_rank=b64")
    ('at_once=', 'low rank', '64')
    """
    arm = next((arm for arm in (AT_ONCE, CHANNELS) if name.startswith(arm)), "")
    kind, _, batch = name.removeprefix(arm).partition("=b")
    return arm, kind.replace("_", " "), batch


def figures(table: Table) -> dict[str, str]:
    """Draw conversions, faded in and at once, beside channels cut as far."""
    dots = []
    for name in table.names:
        if values := list(table.values(name, "test.tuned").values()):
            arm, kind, batch = _parts(name)
            said = {CHANNELS: f"channels as {kind}", AT_ONCE: f"{kind} at once"}.get(arm, kind)
            dot = {CHANNELS: "int8", AT_ONCE: "teacher"}.get(arm, "student")
            dots.append(Dot.percent(f"{said}, batch {batch}", dot, estimate(values)))
    return {"accuracy": dots_chart("Conversions, and channels cut as far", "test accuracy, %", dots)}


STUDY = Study(
    title="Is a convolution of a cheaper kind better than one with fewer channels?",
    ideas=("D4",),
    presets={"quick": quick, "cpu": cpu, "full": full},
    run=run,
    conclude=conclude,
    figures=figures,
    data=data_of,
    version=2,
)
