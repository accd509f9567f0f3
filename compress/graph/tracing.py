"""Find out which channels hang together by running a network with a number on every element.

Each tensor carries a second tensor of its shape, its labels: the number of the channel to which an element belongs.
What moves elements is replayed on the labels; what combines elements joins their numbers; a layer joins the numbers
that it reads with those of its own input channels and gives out those of its output channels. Channels whose
numbers are joined stand or fall together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.weak import WeakTensorKeyDictionary

from compress.graph.partition import Partition
from compress.graph.slicers import axis_size, same_of_each, slices_itself

#: Layers whose parameters lie along their channels in a way that the slicers know.
KNOWN = (_ConvNd, nn.Linear, _NormBase, nn.LayerNorm, nn.GroupNorm, nn.PReLU)
NO_CHANNEL = "something that is no channel"


class Trace:
    """What one run shows.

    Attributes:
        module: The network; a copy that nobody else uses.
        sets: The partition of all numbers.
        slots: Numbers (size,) by path and axis of a layer.
        made: Those of them that hold channels that the layer makes.
        elements: Numbers of every element of a parameter that no layer explains, by path and name.
        outputs: Labels of what the network returns.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.sets = module, Partition()
        self.slots: dict[tuple[str, str], Tensor] = {}
        self.made: dict[tuple[str, str], None] = {}
        self.elements: dict[tuple[str, str], Tensor] = {}
        self.outputs: list[Tensor] = []
        self.is_paused = False
        self._labels: Any = WeakTensorKeyDictionary()
        self._called: list[str] = []
        self._owners: dict[int, list[tuple[str, str]]] = {}
        for path, layer in module.named_modules():
            named = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
            for name, tensor in named:
                if isinstance(tensor, nn.Parameter) or name == "running_mean":
                    self._owners.setdefault(id(tensor), []).append((path, name))

    def labels(self, tensor: Any) -> Tensor | None:
        """Return the labels of a tensor; None when nothing of it belongs to a channel."""
        if not isinstance(tensor, Tensor):
            return None
        found: Tensor | None = self._labels.get(tensor)
        if found is None and isinstance(tensor, nn.Parameter) and id(tensor) in self._owners:
            path, name = self._owners[id(tensor)][0]
            if not isinstance(self.module.get_submodule(path), KNOWN):
                if (path, name) not in self.elements:
                    self.elements[path, name] = self.sets.new(tensor.numel()).view(tensor.shape)
                return self.elements[path, name]
        return found

    def label(self, tensor: Tensor, labels: Tensor | None) -> None:
        """Note the labels of a tensor."""
        if labels is not None:
            assert labels.shape == tensor.shape, (labels.shape, tensor.shape)
            self._labels[tensor] = labels

    def owner(self, *tensors: Any) -> str | None:
        """Return the path of the known layer whose weight or statistic is the first of `tensors` that has one.

        When there is none, the layer that is called now is meant, if it is a norm without weights.
        """
        for tensor in tensors:
            for path, name in self._owners.get(id(tensor), []):
                if isinstance(self.module.get_submodule(path), KNOWN) and name in ("weight", "running_mean"):
                    return path
        is_norm = bool(self._called) and isinstance(self.called, nn.LayerNorm | nn.GroupNorm | _NormBase)
        return self._called[-1] if is_norm else None

    @property
    def called(self) -> nn.Module:
        """The watched layer that is called now, else the whole network."""
        return self.module.get_submodule(self._called[-1] if self._called else "")

    @property
    def keeps_heads(self) -> bool:
        """Whether an attention is called now of which whole heads can be cut."""
        return any(getattr(self.module.get_submodule(path), "keeps_heads", False) for path in self._called)

    def axes_of(self, weight: Any) -> tuple[str, str, str] | None:
        """Return (path, axis of what is made, axis of what is read) of the weight of a linear layer.

        A bare parameter that is used as one has the axes "name.0" and "name.1".
        """
        path, name = self._owners.get(id(weight), [(None, "")])[0] if isinstance(weight, nn.Parameter) else (None, "")
        if path is None:
            return None
        if not isinstance(self.module.get_submodule(path), KNOWN):
            return path, f"{name}.0", f"{name}.1"
        return (path, "out", "in") if name == "weight" and weight.ndim == 2 else None

    def slot(self, path: str, axis: str) -> Tensor:
        """Return the numbers (size,) of one axis of a layer."""
        if (path, axis) not in self.slots:
            layer = self.module.get_submodule(path)
            slot = self.slots[path, axis] = self.sets.new(axis_size(layer, axis))
            same = same_of_each(layer)
            if same > 1:
                self.sets.join(slot.view(same, -1), slot.view(same, -1)[:1], "")
            sharing = {own for weight in layer.parameters(recurse=False) for own, _ in self._owners[id(weight)]} - {
                path
            }
            if sharing:
                self.sets.mark(slot, f"{path}, which shares weights with {', '.join(sorted(sharing))}")
        return self.slots[path, axis]

    def read(self, path: str, axis: str, labels: Tensor | None, dim: int) -> None:
        """Join one axis of a layer with what it sees along `dim`."""
        slot, reason = self.slot(path, axis), f"{path}, which reads {NO_CHANNEL}"
        if labels is None:
            self.sets.mark(slot, reason)
            return
        others = tuple(d for d in range(labels.ndim) if d != dim % labels.ndim)
        self.sets.join(self.sets.join_along(labels, others, reason).flatten(), slot, reason)

    def give(self, output: Tensor, path: str, dim: int, axis: str = "out", *, is_made: bool = False) -> None:
        """Label an output with the channels that a layer makes or hands on, which lie along `dim`."""
        if is_made:
            self.made[path, axis] = None
        shape = [1] * output.ndim
        shape[dim] = -1
        self.label(output, self.slot(path, axis).view(shape).expand(output.shape))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let operations run without looking at them."""
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Learn of every call of a layer that slices itself, keeps heads whole, or normalizes without weights."""
        watched = [(path, layer) for path, layer in self.module.named_modules() if path and _is_watched(layer)]
        for path, layer in watched:
            layer.forward = self._noticed(path, layer, layer.forward)
        try:
            yield
        finally:
            for _, layer in watched:
                del layer.forward

    def _noticed(self, path: str, layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def noticed(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if slices_itself(layer):
                with self.paused():
                    output = forward(x, *args, **kwargs).clone()
                self.read(path, "in", self.labels(x), 1)
                self.give(output, path, 1)
                return output
            self._called.append(path)
            try:
                return forward(x, *args, **kwargs)
            finally:
                self._called.pop()

        return noticed


def _is_watched(layer: nn.Module) -> bool:
    is_norm = isinstance(layer, nn.LayerNorm | nn.GroupNorm | _NormBase)
    has_weight = getattr(layer, "weight", None) is not None or getattr(layer, "running_mean", None) is not None
    return slices_itself(layer) or bool(getattr(layer, "keeps_heads", False)) or (is_norm and not has_weight)
