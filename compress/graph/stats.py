"""What a criterion may look at: statistics of each group of channels, all of them from one pass over the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from compress.core.random import generator
from compress.core.task import Task
from compress.graph.collection import (
    OBSERVERS,
    BlockSlopes,
    Collector,
    NotSeen,
    Observations,
    SampleGates,
    WeightSlopes,
)
from compress.graph.parts import Activity, FoldedPart, GroupStats, Moments, Part, UndeclaredReadError
from compress.graph.places import Place
from compress.graph.slopes import Wanted, slopes
from compress.graph.units import BLOCKS, Block, ChannelGroup
from compress.train.folding import norm_after

__all__ = [
    "GATHERERS",
    "NEEDS",
    "Activity",
    "FoldedPart",
    "GroupStats",
    "Moments",
    "NotSeen",
    "Part",
    "Settings",
    "UndeclaredReadError",
    "check_blocks_have",
    "gather",
]

#: What is read off the weights.
WITHOUT_DATA = ("weight", "folded")
#: What one pass over the data gives.
SLOPES = ("gradient", "gate", "sample_gate")
#: All that `gather` finds by itself.
NEEDS = (*WITHOUT_DATA, *SLOPES, *OBSERVERS)
#: What is known of blocks too.
OF_BLOCKS = ("gate", "sample_gate", "influence")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """On what statistics are gathered.

    Attributes:
        num_batches: At most so many batches.
        batch_size: Inputs a batch.
        seed: Which inputs.
        blocks: Blocks that count too, as the channels of one more group, BLOCKS.
        limits: Upper limits by quantity ("macs": …) that trained statistics may aim at; None for none.
    """

    num_batches: int = 16
    batch_size: int = 64
    seed: int = 0
    blocks: tuple[Block, ...] = ()
    limits: Mapping[str, float] | None = None


#: (module, groups, task, settings) -> parts by name of the group, BLOCKS among them if there are blocks.
Gatherer = Callable[[nn.Module, tuple[ChannelGroup, ...], Task, Settings], Mapping[str, tuple[Part, ...]]]
#: Needs that are trained for instead of passed over, by name. Whoever can answer one enters it here.
GATHERERS: dict[str, Gatherer] = {}


def gather(
    module: nn.Module,
    groups: tuple[ChannelGroup, ...],
    needs: Sequence[str],
    task: Task | None = None,
    **settings: Any,
) -> dict[str, GroupStats]:
    """Return the statistics of every group that `needs` names, and no others.

    However many needs there are, the network runs once over random training inputs without augmentation, in
    evaluation mode, and backwards only if slopes of the task's loss are among them. Needs in GATHERERS come on top.

    Args:
        module: The network; neither its weights nor their `.grad` change.
        groups: Its groups.
        needs: Of NEEDS and GATHERERS, as a criterion's card has them.
        task: Where the data comes from; needed for everything but "weight" and "folded".
        settings: The fields of `Settings`: num_batches, batch_size, seed, blocks, limits.

    Raises:
        ValueError: Data is needed and there is none, or blocks are asked for what only channels have.
    """
    chosen = Settings(**settings)
    _check(needs, chosen.blocks, task)
    places = {group.name: [Place(module, group.name, member) for member in group.members] for group in groups}
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for name, own in places.items():
        for need, part in _weights(module, own, needs):
            found[name][need].append(part)
    if task is not None:
        for collector in _passed(module, places, needs, task, chosen):
            for name, need, parts in collector.results():
                found[name][need] += parts
        for need in [need for need in needs if need in GATHERERS]:
            for name, trained in GATHERERS[need](module, groups, task, chosen).items():
                found[name][need] += trained
    sizes = {group.name: group.num_channels for group in groups}
    sizes |= {BLOCKS: len(chosen.blocks)} if chosen.blocks else {}
    return {name: GroupStats(name, size, {need: found[name][need] for need in needs}) for name, size in sizes.items()}


def _check(needs: Sequence[str], blocks: Sequence[Block], task: Task | None) -> None:
    for need in needs:
        assert need in NEEDS or need in GATHERERS, f"no statistic {need!r}; known: {(*NEEDS, *GATHERERS)}"
        if blocks:
            check_blocks_have(need)
        if task is None and need not in WITHOUT_DATA:
            raise ValueError(f"this criterion looks at {need!r} and needs data: name a task.")


def check_blocks_have(need: str) -> None:
    """Raise ValueError if blocks have no such statistic, so that a criterion that needs it scores channels only."""
    if need not in OF_BLOCKS and need not in GATHERERS:
        raise ValueError(
            f"this criterion looks at {need!r}, which blocks do not have: it scores channels only. Leave the "
            f"blocks out, or choose a criterion that scores blocks too, for example taylor."
        )


def _weights(
    module: nn.Module, places: Sequence[Place], needs: Sequence[str]
) -> Iterator[tuple[str, Part | FoldedPart]]:
    """Yield what is read off the weights of a group's layers. Both needs share one copy of them."""
    touched = {(place.member.path, place.member.axis) for place in places}
    for place in places:
        if place.weight is not None and ("weight" in needs or ("folded" in needs and place.makes_channels)):
            rows_CK = place.rows(place.weight)
            rows_CK = rows_CK.clone() if rows_CK.data_ptr() == place.weight.data_ptr() else rows_CK
            if "weight" in needs:
                yield "weight", place.part(rows_CK)
            if "folded" in needs and place.makes_channels:
                path, axis = place.member.path, place.member.axis
                norm = norm_after(module).get(path)
                norm_or_none = None if norm is None else module.get_submodule(norm)
                has_bias = axis == "out" or (path, f"{place.bias_name}.0") in touched
                yield "folded", place.folded_part(rows_CK, norm_or_none, has_bias=has_bias)


def _passed(
    module: nn.Module,
    places: Mapping[str, Sequence[Place]],
    needs: Sequence[str],
    task: Task,
    settings: Settings,
) -> Sequence[Collector]:
    """Return the collectors that `needs` ask for, after one pass over the data; none if there is no such need."""
    of_weights = WeightSlopes(places, needs) if {"gradient", "gate"} & set(needs) else None
    of_inputs = SampleGates(places) if "sample_gate" in needs else None
    seen = Observations(places, needs, task.input.num_classes) if set(OBSERVERS) & set(needs) else None
    blocks = [block.name for block in settings.blocks]
    of_blocks = BlockSlopes(blocks, needs) if blocks and set(OF_BLOCKS) & set(needs) else None
    collectors = [one for one in (of_weights, of_inputs, seen, of_blocks) if one is not None]
    if not collectors:
        return []
    wanted = Wanted(
        weights=of_weights.weights if of_weights else {},
        inputs=of_weights.inputs if of_weights else (),
        flows=of_inputs.flows if of_inputs else {},
        looks=seen.looks if seen else {},
        blocks=tuple(blocks) if of_blocks else (),
        are_blocks_differentiated=bool(blocks and {"gate", "sample_gate"} & set(needs)),
    )
    batches = replace(task, augment=None).batches(
        "train",
        batch_size=settings.batch_size,
        shuffle=generator(settings.seed, "stats"),
        limit=settings.num_batches * settings.batch_size,
    )
    for batch in slopes(module, wanted, task, batches):
        for collector in collectors:
            collector.add(batch)
    return collectors
