"""What a network's latency would be with some channels and blocks gone, from a table, without building it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from compress.graph.cost_model import CostModel
from compress.graph.units import is_inside
from compress.measure.latency_table import LatencyTable, Layer, layer_kinds, widths_of

#: Narrower layers are read as they are.
EXACT = 8


def snapped(count: int, whole: int, groups: int = 1) -> int:
    """Return the width at which the table is read for `count` channels of a layer that has `whole`.

    Up to 8 channels each width has a time of its own. Above, runtimes compute in tiles of channels, so a width costs
    about what the next one on a grid does: of multiples of 4 up to 32, of 8 up to 128, then of at most an eighth of the
    width. Widths that are no multiple of 4 fill no vector and take a slower way into and out of the tiles: they are
    read one below the grid. With `groups`, the grid is of their multiples. Study 0009 judges it.

    >>> snapped(60, 64), snapped(58, 64), snapped(12, 64), snapped(9, 64), snapped(5, 64), snapped(3, 3)
    (64, 63, 12, 11, 5, 3)
    >>> snapped(260, 512), snapped(262, 512), snapped(30, 48, 6)
    (288, 287, 36)
    """
    if count == whole or (groups == 1 and count <= EXACT):
        return count
    step = 4 if count <= 32 else 8
    while step * 16 <= count:
        step *= 2
    step = math.lcm(step, groups)
    above = min(whole, -(-count // step) * step)
    return above if count % 4 == 0 or groups > 1 else max(count, above - 1)


class LatencyModel:
    """Milliseconds as a function of what is kept: the sum of the layers' times, scaled to whole networks.

    latency_ms = floor_ms + scale · Σ layers. `calibrate` fits both to networks that were measured.
    """

    def __init__(self, module: nn.Module, counts: CostModel, x_BCHW: Tensor, table: LatencyTable) -> None:
        self._counts, self._table = counts, table
        self._kinds = layer_kinds(module, x_BCHW)
        self._whole = {path: (in_, out) for path, in_, out in widths_of(module)}
        self.scale, self.floor_ms = 1.0, 0.0

    def __call__(self, kept: Mapping[str, Tensor], dropped: Sequence[str] = ()) -> float:
        """Return the latency in milliseconds; groups without a mask stay whole."""
        return self.floor_ms + self.scale * self.layers_ms(kept, dropped)

    def layers_ms(self, kept: Mapping[str, Tensor], dropped: Sequence[str] = ()) -> float:
        """Return the sum over the layers that the table holds, not scaled."""
        layers = list(self._layers(kept, dropped))
        self._table.prepare(layers)
        return sum(self._table.layer_ms(*layer) for layer in layers)

    def prepare(self, networks: Iterable[tuple[Mapping[str, Tensor], Sequence[str]]]) -> None:
        """Let the table time in turns all layers of networks (kept, dropped) that it does not know yet."""
        self._table.prepare(layer for network in networks for layer in self._layers(*network))

    def _layers(self, kept: Mapping[str, Tensor], dropped: Sequence[str]) -> Iterator[Layer]:
        """Yield what the table is asked for."""
        widths = self._counts.widths(kept)
        for path, kinds in self._kinds.items():
            if path not in widths or is_inside(path, list(dropped)):
                continue
            whole_in, whole_out = self._whole[path]
            in_, out = widths[path]
            for kind in kinds:
                own_out = snapped(out, whole_out, kind.groups)
                own_in = own_out if kind.kind == "depthwise" else snapped(in_, whole_in, kind.groups)
                yield kind, own_in, own_out

    def calibrate(self, layers_ms: Sequence[float], measured_ms: Sequence[float]) -> None:
        """Fit scale and floor, which is never below 0, to measured networks: the least sum of absolute relative errors.

        One network that met a bad minute moves such a line little. With one network alone the floor is 0.

        Args:
            layers_ms: Sums of layers of each network.
            measured_ms: What each took.

        Source:
            Least absolute deviations: some best line goes through two of the points, or through one and the origin.
        """
        sums_N, times_N = np.asarray(layers_ms, float), np.asarray(measured_ms, float)
        lines = [(time / total, 0.0) for total, time in zip(sums_N, times_N, strict=True)]
        for one, other in itertools.combinations(range(len(sums_N)), 2):
            if sums_N[one] != sums_N[other]:
                scale = (times_N[other] - times_N[one]) / (sums_N[other] - sums_N[one])
                lines.append((scale, times_N[one] - scale * sums_N[one]))
        possible = [(scale, floor_ms) for scale, floor_ms in lines if scale > 0 and floor_ms >= 0]
        errors = [np.abs((scale * sums_N + floor_ms) / times_N - 1).sum() for scale, floor_ms in possible]
        self.scale, self.floor_ms = map(float, possible[int(np.argmin(errors))])
