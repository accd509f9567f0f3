"""What the pruning studies have in common: start, recover and judge a network the same way, whoever cut it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.core.budget import RelativeBudget
from compress.core.model import BUILDERS, Model, sha256_of
from compress.core.stage import STAGES, Entry, Ref
from compress.core.task import Task
from compress.data.source import USUAL_ROOTS, MissingData
from compress.distill import Distiller
from compress.distill.losses import LOSSES
from compress.measure import cost_of
from compress.measure.compare import compare_entries
from compress.measure.paired import NUM_PARTS
from compress.models.pretrained import load_npz
from compress.prune.session import Session, Target
from compress.run import import_model, run_stage, task_of
from compress.store import LocalStore
from compress.studies import Bench, Cell
from compress.train.fit import fit
from compress.train.recalibrate import recalibrate_batch_norm
from compress.train.recipes import RECIPES
from compress.train.scoring import accuracy
from compress.train.settings import FitConfig

#: The network and data of most pruning studies. The weights were trained on all 50,000 training images.
RESNET56: dict[str, Any] = {
    "task": "cifar10",
    "builder": {"name": "resnet_cifar", "depth": 56},
    "weights": "resnet56_cifar10.npz",
}
#: Between two parts of a latency: a machine that others use has states of 5 to 20 s (see `compress.measure.paired`).
PAUSE_S = 1.5
#: How a cut network recovers: as long as the comparison that the project started from. Half the digits in the forward
#: pass of the training, for either side, halve its time; what is judged and timed computes with all of them.
RECOVERY: dict[str, Any] = {
    "steps": 157,
    "batch_size": 128,
    "precision": "bfloat16",
    "recalibrate_batches": 20,
    "rates": [0.01, 0.05],
}


def data_of(cell: Cell) -> dict[str, str]:
    """Return the digests of a cell's data set and weights.

    Raises:
        MissingData: Says where was looked.
    """
    task = task_of(cell.settings["task"])
    found = {task.name: task.digest}
    if name := cell.settings.get("weights"):
        found[name] = sha256_of(weights_path(name))
    return found


def weights_path(name: str) -> Path:
    """Return where trained weights lie: in `weights/` of SECATEUR_DATA, ./data or ../shared/data.

    Raises:
        MissingData: Nowhere there.
    """
    roots = [root for root in (os.environ.get("SECATEUR_DATA"), *USUAL_ROOTS) if root]
    places = [Path(root) / "weights" / name for root in roots]
    for place in places:
        if place.is_file():
            return place
    looked = "\n  ".join(str(place.absolute()) for place in places)
    raise MissingData(
        f"trained weights {name} were not found. Looked at:\n  {looked}\n"
        f"Set SECATEUR_DATA to a folder that holds weights/{name}; the study's README says where they come from."
    )


def store_of(bench: Bench) -> LocalStore:
    """Return the store that all cells of a study share."""
    return LocalStore(bench.workspace / "store")


def start_of(bench: Bench, settings: Mapping[str, Any], task: Task, seed: int = 0) -> Ref:
    """Return the network that is cut: with given weights, or trained by the stage `train` as "train" says.

    Args:
        bench: Where it is stored.
        settings: "builder", and "weights" (a file's name) or "train" (a configuration of the stage).
        task: What it is for.
        seed: Of the training.
    """
    store = store_of(bench)
    if name := settings.get("weights"):
        model = Model.build(BUILDERS.from_json(settings["builder"]), task.input, seed=0)
        return import_model(load_npz(model, weights_path(name)), store)
    config = {**settings["train"], "builder": settings["builder"], "seed": seed}
    return run_stage("train", config, {}, task, store).entry.ref


def cut_by_stage(
    bench: Bench,
    start: Ref,
    task: Task,
    options: Mapping[str, Any],
    *,
    seed: int,
    curves: Mapping[str, Any] | None = None,
) -> Entry:
    """Return what the stage `prune` cuts, before any recovery.

    Args:
        bench: Where it is stored.
        start: What is cut.
        task: Data for scores.
        options: Configuration of the stage.
        seed: Of scores that need data or chance.
        curves: Configuration of the stage `sensitivity`, whose curves of a seed save trials; None for none.
    """
    store, parents = store_of(bench), {"model": start}
    if curves:
        measured = run_stage("sensitivity", {**curves, "seed": seed}, {"model": start}, task, store)
        parents["sensitivity"] = measured.entry.ref
    config = {"recalibrate_batches": 0, "epochs": 0, **options, "seed": seed}
    return run_stage("prune", config, parents, task, store).entry


def cut_alone(model: Model, task: Task, options: Mapping[str, Any], *, seed: int, scratch: Path) -> Model:
    """Return what the stage `prune` would cut at once, without its judging before and after.

    Args:
        model: Stays as it is.
        task: Data for scores.
        options: Configuration of the stage, under limits that are counted.
        seed: Of scores that need data or chance.
        scratch: For what an allocator tries.
    """
    config = STAGES["prune"].extra["config"].from_json({**options, "seed": seed})
    target = Target.of(RelativeBudget.parse(config.budget), model)
    return Session(config, task, scratch, model, target, None).cut(model)


@contextmanager
def fastest_device(module: nn.Module) -> Iterator[nn.Module]:
    """Put `module` on the GPU, where there is one, and back."""
    home = next(module.parameters()).device
    try:
        yield module.to("cuda" if torch.cuda.is_available() else home)
    finally:
        module.to(home)


def on_validation(module: nn.Module, task: Task, *, limit: int = 0) -> float:
    """Return the accuracy on validation images, by which everything is chosen."""
    with fastest_device(module):
        return accuracy(module, task, "validation", limit=limit or None)


def on_test(module: nn.Module, task: Task, *, limit: int = 0) -> float:
    """Return the accuracy on test images. For figures that go into a table; nothing may be chosen by it."""
    with fastest_device(module):
        return accuracy(module, task.opened(), "test", limit=limit or None)


def recalibrated(model: Model, task: Task, settings: Mapping[str, Any], *, seed: int) -> Model:
    """Return a copy whose batch-norm statistics are those of training images."""
    copied = model.copy()
    sizes = {"num_batches": settings["recalibrate_batches"], "batch_size": settings["batch_size"]}
    with fastest_device(copied.module):
        recalibrate_batch_norm(copied.module, task, **sizes, seed=seed)
    return copied


def tuned(
    model: Model,
    task: Task,
    settings: Mapping[str, Any],
    rate: float,
    *,
    seed: int,
    scratch: Path,
    teacher: Model | None = None,
) -> tuple[Model, float]:
    """Return a copy after the fine-tuning at one learning rate, perhaps by a teacher, and its validation accuracy."""
    copied = model.copy()
    config = FitConfig(
        recipe=RECIPES.bind("sgd_cosine", lr=rate),
        max_steps=settings["steps"],
        batch_size=settings["batch_size"],
        precision=settings["precision"],
        seed=seed,
    )
    loss = None if teacher is None else Distiller(LOSSES.from_json(settings["loss"]), copied, teacher, seed=seed)
    found = fit(copied.module, task, config, scratch=scratch, what=f"fine-tune at {rate:g}", loss=loss)
    return copied, found.validation_accuracy


def recovery(
    bench: Bench,
    model: Model,
    task: Task,
    settings: Mapping[str, Any],
    *,
    seed: int,
    rates: Sequence[float],
    teacher: Model | None = None,
) -> tuple[Model, dict[str, Any]]:
    """Recalibrate and fine-tune a cut network, judging it after each step.

    Args:
        bench: Remembers what was judged.
        model: What the cut left.
        task: Its data.
        settings: "steps", "batch_size", "precision", "recalibrate_batches" and "test_limit" (images, 0 for all);
            "loss", of LOSSES, if there is a teacher.
        seed: Of the order of the images.
        rates: Learning rates; the one with the best validation accuracy counts, of equal ones the first.
        teacher: Whose outputs or features the network also learns from; None for labels alone.

    Returns:
        The fine-tuned network, and "test" and "validation" accuracies by state, "rate" and "rates".
    """
    limit, scratch = settings["test_limit"], bench.scratch
    plain = recalibrated(model, task, settings, seed=seed)
    test = {
        "cut": bench.once("test-cut", lambda: on_test(model.module, task, limit=limit)),
        "recalibrated": bench.once("test-recalibrated", lambda: on_test(plain.module, task, limit=limit)),
    }
    before = bench.once("validation-recalibrated", lambda: on_validation(plain.module, task, limit=limit))
    more: dict[str, Any] = {"seed": seed, "scratch": scratch, "teacher": teacher}
    found = {rate: tuned(plain, task, settings, rate, **more) for rate in rates}
    best = max(rates, key=lambda rate: found[rate][1])
    final = found[best][0]
    test["tuned"] = bench.once("test-tuned", lambda: on_test(final.module, task, limit=limit))
    return final, {
        "test": test,
        "validation": {"recalibrated": before, "tuned": found[best][1]},
        "rate": best,
        "rates": {f"{rate:g}": found[rate][1] for rate in rates},
    }


def seeded_cells(name: str, settings: Mapping[str, Any], seeds: Sequence[int]) -> Iterator[Cell]:
    """Yield one cell a seed; the later ones come after the first one, to take over what it chose."""
    first = Cell(name=name, seed=seeds[0], settings=settings)
    yield first
    for seed in seeds[1:]:
        yield Cell(name=name, seed=seed, settings=settings, after=(first.label,))


def by_seed(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells with those of the first seed in front, so that a table is whole early, if less certain."""
    return sorted(cells, key=lambda cell: cell.seed)


def at_rate(rate: float, **options: Any) -> dict[str, Any]:
    """Return options of the stage `prune` for one learning rate, and whatever goes with it."""
    return {"recipe": {"name": "sgd_cosine", "lr": rate}, **options}


def pruned_by_stage(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Run the stage `prune` from end to end and judge what it gives.

    Args:
        cell: Settings: what `start_of` wants; "options", the stage's configuration; "candidates", options that are
            added to it (`at_rate`), of which the first seed takes those with the best validation accuracy, of equal
            ones the first, and the others take them over; "test_limit" and "rounds".
        bench: Holds the store.

    Returns:
        "test" and "validation" accuracies by state, "chosen" (the candidate) and its "rate", "candidates" (their
        validation accuracies), "steps" of training, "returned" (channels that came back), "seconds" of the stage, and
        the costs.
    """
    settings, store = cell.settings, store_of(bench)
    task = task_of(settings["task"])
    start = start_of(bench, settings, task)
    candidates = [earlier["chosen"] for earlier in bench.found.values()] or settings["candidates"]
    outcomes = []
    for candidate in candidates:
        config = {**settings["options"], **candidate, "seed": cell.seed}
        outcomes.append(run_stage("prune", config, {"model": start}, task, store))
    found = [outcome.entry.report["validation_accuracy"] for outcome in outcomes]
    best = found.index(max(found))
    report, model = outcomes[best].entry.report, outcomes[best].entry.model
    before = store.get(start).model
    limit = settings["test_limit"]
    return {
        "test": {"tuned": bench.once("test", lambda: on_test(model.module, task, limit=limit))},
        "validation": {
            "cut": report["accuracy_cut"],
            "recalibrated": report["accuracy_recalibrated"],
            "tuned": report["validation_accuracy"],
        },
        "chosen": candidates[best],
        "rate": candidates[best]["recipe"]["lr"],
        "candidates": found,
        "steps": sum(one["num_steps"] for one in report["fits"]),
        "returned": sum(look["returned"] for look in report["looks"]),
        "seconds": outcomes[best].seconds,
        "dropped": len(report["dropped"]),
        **bench.once("costs", lambda: costs(before, model, rounds=settings["rounds"])),
    }


def costs(before: Model, after: Model, *, rounds: int) -> dict[str, Any]:
    """Return how many times smaller and, measured in turns, faster `after` is than `before`.

    Args:
        before: The reference.
        after: The smaller network.
        rounds: Interleaved samples of each, with pauses if they are many enough for all parts; 0 measures none.

    Returns:
        "macs" and "params" as ratios, "faster" by runtime and batch as {value, low, high}.
    """
    was, now = (cost_of(model).as_json() for model in (before, after))
    entries, pause_s = (Entry.of(before), Entry.of(after)), PAUSE_S if rounds >= NUM_PARTS else 0.0
    faster = compare_entries(*entries, rounds=rounds, pause_s=pause_s) if rounds else {}
    return {"macs": was["macs"] / now["macs"], "params": was["params"] / now["params"], "faster": faster}
