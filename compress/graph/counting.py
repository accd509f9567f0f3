"""Count where multiply-adds are spent: how often each weight is applied, and products that have no weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from compress.graph.units import is_inside
from compress.measure.measures import evaluating

#: Number of times that each weight is applied for one input, by path and name.
Places = dict[tuple[str, str], float]


def count_places(module: nn.Module, x_1CHW: Tensor) -> tuple[Places, dict[str, float]]:
    """Run a network once and count.

    Args:
        module: The network, run in evaluation mode.
        x_1CHW: One input.

    Returns:
        The number of places at which each weight of a convolution or linear layer is applied, and by path the
        multiply-adds that no such weight explains.

    >>> count_places(nn.Sequential(nn.Conv2d(1, 2, 3)), functional.pad(Tensor([[[[1.0]]]]), (2, 2, 2, 2)))
    ({('0', 'weight'): 9.0}, {})
    """
    places: Places = {}
    names = {
        id(parameter): (path, name)
        for path, layer in module.named_modules()
        for name, parameter in layer.named_parameters(recurse=False)
    }

    def note(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen = inputs[0] if isinstance(layer, _ConvTransposeNd) else output
            places[path, "weight"] = places.get((path, "weight"), 0.0) + seen.numel() / seen.shape[1]

        return hook

    convolutions = [(path, layer) for path, layer in module.named_modules() if isinstance(layer, _ConvNd)]
    hooks = [layer.register_forward_hook(note(path)) for path, layer in convolutions]
    counter = FlopCounterMode(display=False)
    try:
        with evaluating(module), sdpa_kernel(SDPBackend.MATH), counter, _Linear(places, names):
            module(x_1CHW)
    finally:
        for hook in hooks:
            hook.remove()
    prefix = f"{type(module).__name__}."
    totals = {
        name.removeprefix(prefix) if name.startswith(prefix) else "": sum(counts.values()) / 2
        for name, counts in counter.get_flop_counts().items()
        if name != "Global"
    }
    return places, _products(module, places, totals)


def _products(module: nn.Module, places: Places, totals: Mapping[str, float]) -> dict[str, float]:
    """Return by path what a module spends beyond its weights and beyond what its children spend so."""
    weighted = {
        (path, name): count * module.get_submodule(path).get_parameter(name).numel()
        for (path, name), count in places.items()
    }
    beyond = {
        path: total - sum(spent for (own, _), spent in weighted.items() if not path or is_inside(own, [path]))
        for path, total in totals.items()
    }
    found = dict(beyond)
    for path in beyond:
        above = path
        while above:
            above = above.rpartition(".")[0]
            if above in beyond:
                found[above] -= beyond[path]
                break
    return {path: macs for path, macs in found.items() if round(macs)}


class _Linear(TorchFunctionMode):
    """Notes every use of the weight of a linear layer, also by others than the layer."""

    def __init__(self, places: Places, names: Mapping[int, tuple[str, str]]) -> None:
        super().__init__()
        self._places, self._names = places, names

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if function is functional.linear:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            if (own := self._names.get(id(weight))) is not None:
                self._places[own] = self._places.get(own, 0.0) + output.numel() / output.shape[-1]
        return output
