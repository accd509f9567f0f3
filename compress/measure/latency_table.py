"""Latency table: layers timed once on the target, looked up and summed many times.

A layer is timed in context, as the difference between two small networks that differ by that layer alone and take
turns, so that what a call costs beside its layers drops out, and so does a change of data layout at its ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compress.core.journal import Journal
from compress.core.lineage import Lineage
from compress.core.model import Model
from compress.core.registry import Piece
from compress.core.stage import Entry
from compress.core.task import InputSpec
from compress.measure.measures import evaluating
from compress.measure.paired import paired_latency

#: Pairs of layers in a row, there and back, when a layer does not change the size of its map.
NUM_PAIRS = 3
#: Rest between the parts of a measurement, for each layer that is measured: a layer's samples last milliseconds, and so
#: do hiccups of the machine.
PAUSE_S = 0.02
#: Layers that are timed in turns at most; bytes that their maps may take together, and how often each map is held.
TOGETHER, MEMORY_MAX, COPIES = 100, 2**30, 8


@dataclass(frozen=True)
class LayerKind:
    """Everything that a layer's latency depends on but its numbers of channels.

    Attributes:
        kind: "conv", "depthwise", "grouped" or "linear".
        kernel: Height and width of the kernel.
        stride: Steps in height and width.
        padding: Rows and columns added at each side.
        dilation: Distance of two taps of the kernel.
        size: Height and width of the input.
        groups: Of a grouped convolution; else 1.
    """

    kind: str
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    size: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, layer: nn.Module, x: Tensor) -> LayerKind | None:
        """Return the kind of `layer` for its input, or None for layers that the table does not hold."""
        if isinstance(layer, nn.Linear):
            return cls("linear") if x.ndim == 2 else None
        if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
            return None
        is_depthwise = 1 < layer.groups == layer.in_channels == layer.out_channels
        kind = "depthwise" if is_depthwise else "grouped" if layer.groups > 1 else "conv"
        pairs = {
            name: (int(a), int(b))
            for name, (a, b) in {
                "kernel": layer.kernel_size,
                "stride": layer.stride,
                "padding": layer.padding,
                "dilation": layer.dilation,
                "size": x.shape[-2:],
            }.items()
        }
        return cls(kind, **pairs, groups=1 if is_depthwise else layer.groups)

    @property
    def keeps_size(self) -> bool:
        """Whether layers of this kind can stand in a row."""
        out = [
            (s + 2 * p - d * (k - 1) - 1) // t + 1
            for s, p, d, k, t in zip(self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True)
        ]
        return tuple(out) == self.size

    def make(self, in_: int, out: int) -> nn.Module:
        """Return such a layer with an activation behind it."""
        if self.kind == "linear":
            return nn.Sequential(nn.Linear(in_, out), nn.ReLU())
        groups = in_ if self.kind == "depthwise" else self.groups
        shape = (self.kernel, self.stride, self.padding, self.dilation)
        return nn.Sequential(nn.Conv2d(in_, out, *shape, groups=groups), nn.ReLU())

    def before(self, in_: int) -> nn.Module:
        """Return what stands in front of the timed layers: a convolution that puts the data into its layout."""
        if self.kind == "linear":
            return nn.Sequential(nn.Flatten(), nn.Linear(in_, in_), nn.ReLU())
        return nn.Identity() if in_ < 4 else nn.Sequential(nn.Conv2d(in_, in_, 3, padding=1), nn.ReLU())


class _Pooled(nn.Module):
    """Layers in a row; maps are averaged at the end."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y.mean((2, 3)) if y.ndim == 4 else y


#: (kind, input channels, output channels).
Layer = tuple[LayerKind, int, int]


class LatencyTable:
    """Milliseconds of layers by kind and numbers of channels, timed when first asked for.

    Args:
        runtime: Piece of RUNTIMES: the target.
        batch: Inputs of one call.
        journal: Where times are kept; a table that is opened again answers from it.
        rounds: Interleaved samples of each network.
    """

    def __init__(self, runtime: Piece[Any], journal: Journal, *, batch: int, rounds: int = 15) -> None:
        self.runtime, self.batch, self._journal, self._rounds = runtime, batch, journal, rounds

    def layer_ms(self, kind: LayerKind, in_: int, out: int) -> float:
        """Return the milliseconds of one layer, at least 0.

        There and back count alike: for a layer that keeps the size of its map, the time is the mean of
        (in → out) and (out → in), which is what a residual block pays for both together.
        """
        layer = _sorted(kind, in_, out)
        found: float = self._journal.get("layer_ms", self._key(layer), lambda: self._timed([layer])[0])
        return found

    def prepare(self, layers: Iterable[Layer]) -> None:
        """Time the layers that nobody has asked for yet, many of them in turns.

        A machine that others use has states of seconds, in which narrow layers are slower than in others while wide
        ones are not. One after the other, each layer would meet a state of its own; in turns, all meet the same ones.
        Layers that do not fit into one portion are dealt out to several like cards, so that each network, whose layers
        follow each other, has some in all of them.
        """
        wanted = dict.fromkeys(_sorted(*layer) for layer in layers)
        unknown = [layer for layer in wanted if not self._journal.knows("layer_ms", self._key(layer))]
        num = len(list(self._portions(unknown)))
        for some in (portion for first in range(num) for portion in self._portions(unknown[first::num])):
            for layer, spent_ms in zip(some, self._timed(some), strict=True):
                self._journal.learn("layer_ms", self._key(layer), spent_ms)

    def _key(self, layer: Layer) -> str:
        kind, in_, out = layer
        return json.dumps([self.runtime.as_json(), self.batch, asdict(kind), in_, out], sort_keys=True)

    def _portions(self, layers: Sequence[Layer]) -> Iterator[list[Layer]]:
        """Yield the layers in portions that fit into memory together."""
        portion: list[Layer] = []
        filled = 0
        for kind, in_, out in layers:
            need = COPIES * 4 * self.batch * (in_ + out) * kind.size[0] * kind.size[1]
            if portion and (filled + need > MEMORY_MAX or len(portion) == TOGETHER):
                yield portion
                portion, filled = [], 0
            portion.append((kind, in_, out))
            filled += need
        if portion:
            yield portion

    def _timed(self, layers: Sequence[Layer]) -> list[float]:
        """Time for each layer a network that has it against one without, all in turns."""
        calls: dict[Any, Callable[[], object]] = {}
        pairs = []
        with ExitStack() as stack:
            for layer in layers:
                kind, in_, _ = layer
                row = _row(*layer)
                before = (kind.kind == "linear", kind.size, in_)
                pairs.append((layer, before, len(row)))
                spec = InputSpec(shape=(in_, *kind.size), mean=(0.0,) * in_, std=(1.0,) * in_, class_names=("x",))
                x_BCHW = spec.example(self.batch).numpy().astype(np.float32)
                for name, behind in ((before, []), (layer, row)):
                    if name not in calls:
                        network = _lone(_Pooled(kind.before(in_), *behind), spec)
                        session = stack.enter_context(self.runtime(Entry.of(network)))
                        calls[name] = partial(session.infer, x_BCHW)
            named = {str(number): call for number, call in enumerate(calls.values())}
            times = paired_latency(named, rounds=self._rounds, warmup=3, pause_s=PAUSE_S * len(layers))
        samples = dict(zip(calls, (np.array(one) for one in times.samples_ms.values()), strict=True))
        return [max(0.0, float(np.median(samples[layer] - samples[before])) / num) for layer, before, num in pairs]


def _sorted(kind: LayerKind, in_: int, out: int) -> Layer:
    """Return a layer by the name that it and its way back have in common."""
    if kind.keeps_size and kind.kind != "linear":
        in_, out = sorted((in_, out))
    return kind, in_, out


def _row(kind: LayerKind, in_: int, out: int) -> list[nn.Module]:
    """Return the layers that are timed together: there and back where there is a way back."""
    if not kind.keeps_size:
        return [kind.make(in_, out)]
    return [layer for _ in range(NUM_PAIRS) for layer in (kind.make(in_, out), kind.make(out, in_))]


def _lone(network: nn.Module, spec: InputSpec) -> Model:
    """Return a network that is timed and thrown away; it has no builder."""
    return Model(network.eval(), spec, Lineage(builder={"name": "timed"}, shape=spec.shape, num_classes=1))


def layer_kinds(module: nn.Module, x_BCHW: Tensor) -> dict[str, list[LayerKind]]:
    """Return the kinds of the layers that the table holds, by path: one for each time that a layer runs."""
    found: dict[str, list[LayerKind]] = {}

    def note(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            if (kind := LayerKind.of(layer, inputs[0])) is not None:
                found.setdefault(path, []).append(kind)

        return hook

    hooks = [
        layer.register_forward_hook(note(path))
        for path, layer in module.named_modules()
        if isinstance(layer, _ConvNd | nn.Linear)
    ]
    try:
        with evaluating(module), torch.inference_mode():
            module(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def widths_of(module: nn.Module) -> Iterator[tuple[str, int, int]]:
    """Yield path, input and output channels of every layer that the table may hold."""
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            yield path, layer.in_features, layer.out_features
        elif isinstance(layer, nn.Conv2d):
            yield path, layer.in_channels, layer.out_channels
