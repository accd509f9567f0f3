"""Latency table: layers timed once on the target, looked up and summed many times.

A layer is timed in context, as the difference between two small networks that differ by that layer alone and take
turns, so that what a call costs beside its layers drops out, and so does a change of data layout at its ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
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
from compress.measure.runtimes import paired_sessions

#: Pairs of layers in a row, there and back, when a layer does not change the size of its map.
NUM_PAIRS = 3
#: Rest between the parts of a measurement: a layer's samples last milliseconds, and so do hiccups of the machine.
PAUSE_S = 0.02


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
        if kind.keeps_size and kind.kind != "linear":
            in_, out = sorted((in_, out))
        key = json.dumps([self.runtime.as_json(), self.batch, asdict(kind), in_, out], sort_keys=True)
        found: float = self._journal.get("layer_ms", key, lambda: self._timed(kind, in_, out))
        return found

    def _timed(self, kind: LayerKind, in_: int, out: int) -> float:
        """Time a network with the layers against one without, in turns."""
        prefix = [kind.before(in_)]
        if kind.keeps_size:
            layers = [layer for _ in range(NUM_PAIRS) for layer in (kind.make(in_, out), kind.make(out, in_))]
        else:
            layers = [kind.make(in_, out)]
        networks = {"without": _Pooled(*prefix), "with": _Pooled(*prefix, *layers)}
        spec = InputSpec(shape=(in_, *kind.size), mean=(0.0,) * in_, std=(1.0,) * in_, class_names=("x",))
        x_BCHW = spec.example(self.batch).numpy().astype(np.float32)
        with ExitStack() as stack:
            sessions = {
                name: stack.enter_context(self.runtime(Entry.of(_lone(network, spec))))
                for name, network in networks.items()
            }
            times = paired_sessions(sessions, x_BCHW, rounds=self._rounds, warmup=3, pause_s=PAUSE_S)
        gap_R = np.array(times.samples_ms["with"]) - np.array(times.samples_ms["without"])
        return max(0.0, float(np.median(gap_R)) / len(layers))


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
