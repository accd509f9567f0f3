"""Which positions of which layers hang together: the closure over Torch-Pruning's dependency graph.

Torch-Pruning traces the network and says, for each pair of neighbouring operations, how channel
indices of one become indices of the other. Here every (operation, side, index) is an element, every
such statement joins two elements, and what is connected must be cut together. Unlike Torch-Pruning's own
groups nothing is lost where several channels of one layer meet in one channel of another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compress.graph.slicers import axis_size, is_depthwise, slicer_of, slices_itself
from compress.graph.units import Axis


class Untraceable(ValueError):
    """It cannot be found out which channels of a network hang together."""

    def __init__(self, module: nn.Module, error: Exception) -> None:
        super().__init__(
            f"{type(module).__name__} cannot be traced, so its channels cannot be cut: Torch-Pruning stopped with "
            f"{type(error).__name__}: {error}. Leave its channels whole and drop residual blocks only (stage search "
            f'with the space "blocks"), distil into a network of another builder (resnet_cifar, vgg_small, '
            f"mobilenet_v2_small), or quantize it alone."
        )


@dataclass
class Component:
    """One set of positions that stand or fall together.

    Attributes:
        slots: Positions by (path, axis).
        obstacles: Why it cannot be cut; empty when it can.
        is_output: Whether an output of the network is among them.
    """

    slots: dict[tuple[str, Axis], list[int]] = field(default_factory=dict)
    obstacles: set[str] = field(default_factory=set)
    is_output: bool = False


def components(module: nn.Module, x_BCHW: Tensor) -> list[Component]:
    """Return the connected positions of `module`, each reached from a layer that produces channels.

    Raises:
        Untraceable: The network runs, but Torch-Pruning does not understand what it does.
    """
    copied = _opaque(copy.deepcopy(module).eval().requires_grad_(True))
    with torch.no_grad():
        copied(x_BCHW)
    try:
        return _closure(copied, x_BCHW)
    except Exception as error:
        raise Untraceable(module, error) from error


def _closure(copied: nn.Module, x_BCHW: Tensor) -> list[Component]:
    """Trace a throw-away copy and join what hangs together."""
    graph = _dependency_graph(copied, x_BCHW)
    paths = {layer: path for path, layer in copied.named_modules()}
    joined = _Union()
    nodes = {id(node): node for node in graph.module2node.values()}
    for layer in paths:
        if layer in graph.module2node and is_producer(layer):
            node = graph.module2node[layer]
            _join_from(node, graph.get_pruner_of_module(layer).prune_out_channels, axis_size(layer, "out"), joined)
    found: dict[int, Component] = {}
    for (node_id, handler, position), root in joined.items():
        node = nodes[node_id]
        component = found.setdefault(root, Component())
        pruner = graph.get_pruner_of_module(node.module)
        axis: Axis = "out" if handler == pruner.prune_out_channels else "in"
        _enter(component, node, paths.get(node.module), axis, position)
    return list(found.values())


def is_producer(layer: nn.Module) -> bool:
    """Return whether `layer` makes new channels: a convolution that is not depthwise, or a linear layer."""
    return isinstance(layer, _ConvNd | nn.Linear) and not is_depthwise(layer)


def _enter(component: Component, node: Any, path: str | None, axis: Axis, position: int) -> None:
    """Add one element to its component: a slot, an obstacle, or nothing for an operation without parameters."""
    layer = node.module
    if axis == "out" and not node.outputs:
        component.is_output = True
    if isinstance(layer, nn.Parameter):
        component.obstacles.add(f"a bare parameter of shape {tuple(layer.shape)}")
    if path is None:
        return
    layer = layer.real if isinstance(layer, _Opaque) else layer
    if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
        return
    if slicer_of(layer) is None:
        component.obstacles.add(f"{path}, a {type(layer).__name__}")
    elif isinstance(layer, _ConvNd) and layer.groups > 1 and not is_depthwise(layer):
        component.obstacles.add(f"{path}, a convolution with {layer.groups} groups")
    component.slots.setdefault((path, axis), []).append(position)


class _Union:
    """Disjoint sets of hashable elements, in the order in which they were first seen."""

    def __init__(self) -> None:
        self._number: dict[Any, int] = {}
        self._parent: list[int] = []

    def add(self, element: Any) -> tuple[int, bool]:
        """Return the element's number and whether it is new."""
        number = self._number.setdefault(element, len(self._parent))
        is_new = number == len(self._parent)
        if is_new:
            self._parent.append(number)
        return number, is_new

    def root(self, number: int) -> int:
        """Return the number that stands for the set."""
        while self._parent[number] != number:
            self._parent[number] = number = self._parent[self._parent[number]]
        return number

    def join(self, a: int, b: int) -> None:
        """Make one set of the sets of `a` and `b`; the older number stands for it."""
        a, b = sorted((self.root(a), self.root(b)))
        self._parent[b] = a

    def items(self) -> Iterator[tuple[Any, int]]:
        """Yield every element with the number that stands for its set."""
        for element, number in self._number.items():
            yield element, self.root(number)


def _join_from(node: Any, handler: Callable[..., Any], size: int, joined: _Union) -> None:
    """Join the `size` positions of (node, handler) with everything that depends on them, directly or not."""
    from torch_pruning._helpers import _HybridIndex

    fresh = [k for k in range(size) if joined.add((id(node), handler, k))[1]]
    waiting = [(node, handler, fresh)]
    while waiting:
        node, handler, positions = waiting.pop()
        for edge in node.dependencies:
            if not positions or not edge.is_triggered_by(handler):
                continue
            reached = [_HybridIndex(idx=k, root_idx=k) for k in positions]
            for mapping in edge.index_mapping:
                reached = mapping(reached) if mapping is not None else reached
            fresh = []
            for pair in reached:
                number, is_new = joined.add((id(edge.target), edge.handler, pair.idx))
                joined.join(joined.add((id(node), handler, pair.root_idx))[0], number)
                if is_new:
                    fresh.append(pair.idx)
            waiting.append((edge.target, edge.handler, fresh))


class _NoGradient(torch.autograd.Function):
    """Run a layer as a single operation of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        return layer(x).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError


class _Opaque(nn.Module):
    """Stands in for a layer that slices itself, so that its inner operations are not traced."""

    def __init__(self, real: Any) -> None:
        super().__init__()
        self.real = real
        self.in_channels, self.out_channels = real.in_channels, real.out_channels

    def forward(self, x: Tensor) -> Tensor:
        return _NoGradient.apply(x, self.real)


def _opaque(root: nn.Module) -> nn.Module:
    """Put a stand-in around every layer of a throw-away copy that slices itself."""
    for path, layer in list(root.named_modules()):
        if path and slices_itself(layer):
            parent, _, name = path.rpartition(".")
            setattr(root.get_submodule(parent), name, _Opaque(layer))
    return root


def _dependency_graph(root: nn.Module, x_BCHW: Tensor) -> Any:
    import torch_pruning

    class Decoupling(torch_pruning.pruner.BasePruningFunc):
        """Keeps input and output apart, as a convolution does. Torch-Pruning never prunes here; it only asks."""

        def prune_out_channels(self, layer: nn.Module, idxs: Any) -> nn.Module:
            raise NotImplementedError

        def prune_in_channels(self, layer: nn.Module, idxs: Any) -> nn.Module:
            raise NotImplementedError

        def get_out_channels(self, layer: Any) -> int:
            return int(layer.out_channels)

        def get_in_channels(self, layer: Any) -> int:
            return int(layer.in_channels)

    graph = torch_pruning.DependencyGraph()
    with torch.enable_grad():
        graph.build_dependency(root, x_BCHW, customized_pruners={_Opaque: Decoupling()}, verbose=False)
    return graph
