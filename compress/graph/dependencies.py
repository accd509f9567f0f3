"""Which positions of which layers hang together, as a list of components."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compress.graph.attention import is_tight, loosened
from compress.graph.operations import run
from compress.graph.partition import thin
from compress.graph.slicers import is_depthwise, parameter_axis, slicer_of
from compress.graph.tracing import Trace
from compress.graph.units import Axis

Slot = tuple[str, Axis]


class Untraceable(ValueError):
    """It cannot be found out which channels of a network hang together."""

    def __init__(self, module: nn.Module, error: Exception) -> None:
        super().__init__(
            f"{type(module).__name__} cannot be traced, so its channels cannot be cut: the tracing stopped with "
            f"{type(error).__name__}: {error}. Leave its channels whole and drop residual blocks only (stage search "
            f'with the space "blocks"), distil into a network of another builder (resnet_cifar, vgg_small, '
            f"mobilenet_v2_small), or quantize it alone."
        )


@dataclass
class Component:
    """One set of positions that stand or fall together.

    Attributes:
        slots: Positions by (path, axis), ascending.
        makers: Slots of layers that make these channels.
        obstacles: Why it cannot be cut; empty when it can.
        is_output: Whether an output of the network is among them.
    """

    slots: dict[Slot, list[int]] = field(default_factory=dict)
    makers: list[Slot] = field(default_factory=list)
    obstacles: set[str] = field(default_factory=set)
    is_output: bool = False


def components(module: nn.Module, x_BCHW: Tensor) -> list[Component]:
    """Return the connected positions of `module` that some layer makes.

    Raises:
        Untraceable: The network runs, but not with labels on its tensors.
    """
    copied = copy.deepcopy(module).eval()
    with torch.no_grad():
        copied(x_BCHW)
    if is_tight(copied):
        try:
            return _traced(loosened(copied), x_BCHW)
        except Exception:
            copied = copy.deepcopy(module).eval()
    try:
        return _traced(copied, x_BCHW)
    except Exception as error:
        raise Untraceable(module, error) from error


def _traced(copied: nn.Module, x_BCHW: Tensor) -> list[Component]:
    trace = Trace(copied)
    run(trace, x_BCHW)
    return _components(trace)


def is_producer(layer: nn.Module) -> bool:
    """Return whether `layer` makes new channels: a convolution that is not depthwise, or a linear layer."""
    return isinstance(layer, _ConvNd | nn.Linear) and not is_depthwise(layer)


def _components(trace: Trace) -> list[Component]:
    found: dict[int, Component] = {}
    for path, axis in trace.made:
        for root in trace.sets.roots(trace.slots[path, axis]).unique().numpy().tolist():
            found.setdefault(root, Component()).makers.append((path, axis))
    for (path, axis), slot in trace.slots.items():
        obstacle = _obstacle(path, axis, trace.module.get_submodule(path))
        for position, root in enumerate(trace.sets.roots(slot).numpy().tolist()):
            if (component := found.get(root)) is not None:
                component.slots.setdefault((path, axis), []).append(position)
                if obstacle:
                    component.obstacles |= obstacle
    for (path, name), numbers in trace.elements.items():
        _enter_parameter(found, path, name, trace.sets.roots(numbers))
    for root, reasons in trace.sets.marks().items():
        if root in found:
            found[root].obstacles |= reasons
    for labels in trace.outputs:
        for root in trace.sets.roots(thin(labels)[0]).unique().numpy().tolist():
            if root in found:
                found[root].is_output = True
    return list(found.values())


def _obstacle(path: str, axis: Axis, layer: nn.Module) -> set[str]:
    """Return why a layer cannot be cut, if it cannot."""
    if parameter_axis(axis) is None and slicer_of(layer) is None:
        return {f"{path}, a {type(layer).__name__}"}
    if isinstance(layer, _ConvNd) and layer.groups > 1 and layer.transposed and not is_depthwise(layer):
        return {f"{path}, a transposed convolution with {layer.groups} groups"}
    return set()


def _enter_parameter(found: dict[int, Component], path: str, name: str, roots: Tensor) -> None:
    """Add the axis of a bare parameter along which its elements belong to different components, or an obstacle."""
    is_met = torch.isin(roots, torch.tensor(list(found)))
    if not is_met.any():
        return
    own = {dim: _along(roots, is_met, dim) for dim in range(roots.ndim) if roots.shape[dim] > 1}
    fitting = {dim: row for dim, row in own.items() if row is not None}
    if not fitting:
        for root in roots[is_met].unique().numpy().tolist():
            found[root].obstacles.add(f"a bare parameter of shape {tuple(roots.shape)}")
        return
    dim = max(fitting, key=lambda dim: len(set(fitting[dim])))
    positions: dict[int, set[int]] = defaultdict(set)
    for position, root in enumerate(fitting[dim]):
        if root in found:
            positions[root].add(position)
    for root, new in positions.items():
        slots, axis = found[root].slots, (path, f"{name}.{dim}")
        slots[axis] = sorted(new.union(slots.get(axis, ())))


def _along(roots: Tensor, is_met: Tensor, dim: int) -> list[int] | None:
    """Return the one component of each slice along `dim` (-1 for none), or None when some slice has several."""
    rows, met = (x.movedim(dim, 0).reshape(roots.shape[dim], -1) for x in (roots, is_met))
    highest = torch.where(met, rows, -1).amax(1)
    lowest = torch.where(met, rows, torch.iinfo(torch.int64).max).amin(1)
    return highest.tolist() if bool(((highest == lowest) | (highest < 0)).all()) else None
