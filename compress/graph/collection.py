"""Collectors of statistics: each wants something of a pass over the data and keeps its sums."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.graph.observers import ActivitySum, InfluenceSum, MomentSum, Observer, RankSum, View
from compress.graph.parts import Part
from compress.graph.places import Place
from compress.graph.slopes import Look, Side, Slopes
from compress.graph.units import BLOCKS

#: Needs that are sums over what layers read.
OBSERVERS: Mapping[str, type[Observer]] = {
    "moment": MomentSum,
    "activity": ActivitySum,
    "spectrum": RankSum,
    "influence": InfluenceSum,
}
#: (group, need, parts).
Entry = tuple[str, str, list[Any]]


class NotSeen(UserWarning):
    """Channels of which a statistic leaves out layers that read them, because nobody calls these as layers."""


class WeightSlopes:
    """Gradients of weights, and gates of layers with weights and of layers that read without."""

    def __init__(self, places: Mapping[str, Sequence[Place]], needs: Sequence[str]) -> None:
        every = [place for own in places.values() for place in own]
        self._weighted = [place for place in every if place.weight is not None]
        self._plain = [place for place in every if place.reads_without_weight] if "gate" in needs else []
        self._needs = [need for need in ("gradient", "gate") if need in needs]
        self._kernels = [place.rows(place.weight) for place in self._weighted if place.weight is not None]
        self._sums = [torch.zeros_like(kernel_CK) for kernel_CK in self._kernels]
        self._gates: dict[Place, list[Tensor]] = {place: [] for place in (*self._weighted, *self._plain)}
        self._num_batches = 0

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Weights by name whose slopes are needed."""
        return {place.weight_name: place.weight for place in self._weighted if place.weight is not None}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Paths of the layers that read without weights."""
        return tuple(dict.fromkeys(place.member.path for place in self._plain))

    def add(self, batch: Slopes) -> None:
        """Add one batch."""
        self._num_batches += 1
        for place, kernel_CK, sum_CK in zip(self._weighted, self._kernels, self._sums, strict=True):
            slope_CK = place.rows(batch.weights[place.weight_name])
            sum_CK += slope_CK
            self._gates[place].append((kernel_CK * slope_CK).sum(1))
        for place in self._plain:
            flow_S = batch.inputs[place.member.path]
            self._gates[place].append(place.pick(flow_S[None, :, None])[0].sum(1))

    def results(self) -> Iterator[Entry]:
        """Yield what was gathered."""
        if "gradient" in self._needs:
            for place, sum_CK in zip(self._weighted, self._sums, strict=True):
                yield place.group, "gradient", [place.part(sum_CK / self._num_batches)]
        if "gate" in self._needs:
            for place, gates in self._gates.items():
                yield place.group, "gate", [place.part(torch.stack(gates))]


class SampleGates:
    """The slope of each input's own loss towards a factor on the channel in front of all its readers together."""

    def __init__(self, places: Mapping[str, Sequence[Place]]) -> None:
        self._views = {name: views_of(own) for name, own in places.items()}
        self._sides = _by_side([view for own in self._views.values() for view in own])
        self._seen: set[Place] = set()
        self._gates: dict[str, list[Tensor]] = {name: [] for name in places}
        self._now: dict[str, Tensor] = {}

    @property
    def flows(self) -> dict[Side, Look]:
        """Functions that take flows during the backward pass."""
        return {side: self._take(own) for side, own in self._sides.items()}

    def _take(self, own: Sequence[Place]) -> Look:
        def take(flow: Tensor, labels_B: Tensor) -> None:
            flow_BSP = own[0].channels_first(flow, len(labels_B)).sum(2, keepdim=True)
            self._seen.update(own)
            for place in own:
                flow_BC = place.pick(flow_BSP).sum(2)
                self._now[place.group] = self._now[place.group] + flow_BC if place.group in self._now else flow_BC

        return take

    def add(self, batch: Slopes) -> None:
        """End one batch. The mean loss has the slopes of each input's own over the number of inputs."""
        for name, flow_BC in self._now.items():
            self._gates[name].append(flow_BC * batch.num_inputs)
        self._now.clear()

    def results(self) -> Iterator[Entry]:
        """Yield what was gathered."""
        for name, gates in self._gates.items():
            _warn(name, "sample_gate", [place for _, place in self._views[name] if place not in self._seen])
            if gates:
                yield name, "sample_gate", [Part(name, "in", False, torch.cat(gates))]


class Observations:
    """Sums over what layers read, with one observer for each layer, group and need."""

    def __init__(self, places: Mapping[str, Sequence[Place]], needs: Sequence[str], num_classes: int) -> None:
        self._seen: dict[tuple[str, str], list[Observer]] = {}
        sides: list[tuple[Side, Observer]] = []
        for need in [need for need in needs if need in OBSERVERS]:
            for name, own in places.items():
                views = views_of(own)
                if need == "spectrum" and all(isinstance(place.layer, nn.Linear) for _, place in views):
                    views = views_of([place for place in own if not place.reads])
                observers = [OBSERVERS[need](place, num_classes) for _, place in views]
                self._seen[name, need] = observers
                sides += [(side, observer) for (side, _), observer in zip(views, observers, strict=True)]
        self._sides = _by_side(sides)

    @property
    def looks(self) -> dict[Side, Look]:
        """Functions that look at layers during the forward pass."""
        return {side: self._look(own) for side, own in self._sides.items()}

    def _look(self, observers: Sequence[Observer]) -> Look:
        first = observers[0].place

        def look(x: Tensor, labels_B: Tensor) -> None:
            whole_BSP = first.channels_first(x, len(labels_B))
            for observer in observers:
                own_BCP = observer.place.pick(whole_BSP)
                observer.see(View(own_BCP, whole_BSP, first.map_size(x), labels_B))

        return look

    def add(self, batch: Slopes) -> None:
        """End one batch."""

    def results(self) -> Iterator[Entry]:
        """Yield what was gathered."""
        for (name, need), observers in self._seen.items():
            if need != "spectrum":
                _warn(name, need, [observer.place for observer in observers if not observer.count])
            yield name, need, [one for observer in observers if observer.count for one in observer.results()]


class BlockSlopes:
    """Gates of blocks, a batch or an input at a time, and how far blocks turn their input."""

    def __init__(self, names: Sequence[str], needs: Sequence[str]) -> None:
        self._names, self._needs = names, needs
        self._rows: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, batch: Slopes) -> None:
        """Add one batch."""
        self._rows["influence"].append(torch.stack([batch.turns[name] for name in self._names], 1))
        if batch.blocks:
            each_NB = torch.stack([batch.blocks[name] for name in self._names], 1)
            self._rows["gate"].append(each_NB.sum(0, keepdim=True))
            self._rows["sample_gate"].append(each_NB * batch.num_inputs)

    def results(self) -> Iterator[Entry]:
        """Yield what was gathered."""
        for need in ("gate", "sample_gate", "influence"):
            if need in self._needs:
                values = torch.cat(self._rows[need])
                values = values.mean(0).unsqueeze(1) if need == "influence" else values
                yield BLOCKS, need, [Part(BLOCKS, "in", False, values)]


Collector = WeightSlopes | SampleGates | Observations | BlockSlopes


def views_of(places: Sequence[Place]) -> list[tuple[Side, Place]]:
    """Return where a group's channels are seen: what its readers get, or else what its last layer gives."""
    readers: list[tuple[Side, Place]] = [((place.member.path, "in"), place) for place in places if place.reads]
    return readers or [((places[-1].member.path, "out"), places[-1])]


def _by_side(pairs: Sequence[tuple[Side, Any]]) -> dict[Side, list[Any]]:
    found: dict[Side, list[Any]] = defaultdict(list)
    for side, one in pairs:
        found[side].append(one)
    return dict(found)


def _warn(name: str, need: str, unseen: Sequence[Place]) -> None:
    if unseen:
        paths = ", ".join(place.member.path for place in unseen)
        warnings.warn(f"{need!r} of {name} leaves out {paths}: nobody calls it as a layer.", NotSeen, stacklevel=2)
