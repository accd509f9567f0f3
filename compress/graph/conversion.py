"""Convolutions replaced by cheaper layers: (model, plan) -> a new model. Needs neither weights nor tracing to replay.

A plan is JSON and self-contained::

    {"kind": "convert", "layers": {
        "layer1.0.conv1": {"to": "grouped", "groups": 4, "in_order": [...], "out_order": [...]},
        "layer1.0.conv2": {"to": "low_rank", "rank": 6}}}

A replay gives the structure; the weights come from a file, or from `convert_with`. What comes out are plain
convolutions, one at the old path or a few in a `Sequential`, so that a later cut sees nothing unusual.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.blocks.channel_order import ChannelOrder
from compress.core.lineage import PLAN_KINDS, Step
from compress.core.model import Model
from compress.core.random import seeded
from compress.graph.slicers import axis_size

#: What a layer becomes: {"to": kind, …}.
Target = Mapping[str, Any]
#: (old convolution, target) -> the new layer with fresh weights.
Maker = Callable[[nn.Conv2d, Target], nn.Module]

MAKERS: dict[str, tuple[Maker, frozenset[str], frozenset[str]]] = {}


def makes(kind: str, *needed: str, optional: Sequence[str] = ()) -> Callable[[Maker], Maker]:
    """Register the decorated function for targets of `kind` with the keys `needed` and perhaps `optional`."""

    def decorate(function: Maker) -> Maker:
        MAKERS[kind] = (function, frozenset(needed), frozenset(optional))
        return function

    return decorate


@PLAN_KINDS.register("convert")
def convert(module: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
    """Return a copy of a network in which the convolutions that a plan names are cheaper ones with fresh weights.

    Raises:
        ValueError: The plan does not fit the network; says where.
    """
    if plan.get("kind") != "convert" or set(plan) != {"kind", "layers"}:
        raise ValueError(f'a plan of conversions has "kind": "convert" and "layers"; got {sorted(plan)}.')
    new = copy.deepcopy(module)
    for path, target in plan["layers"].items():
        try:
            old = new.get_submodule(path)
        except AttributeError as error:
            raise ValueError(f"the plan names {path!r}, which this network has not: it is another one's.") from error
        if not path or not isinstance(old, nn.Conv2d):
            raise ValueError(f"the plan converts {path!r}, a {type(old).__name__}; only a Conv2d inside a network can.")
        try:
            replace_at(new, path, cheaper(old, target))
        except ValueError as error:
            raise ValueError(f"converting {path}: {error}") from error
    return new


def convert_with(
    model: Model, layers: Mapping[str, tuple[Target, nn.Module]], *, stage: str, config: Mapping[str, Any]
) -> Model:
    """Return the model in which each layer of `layers` is what its target says, with the weights of its module.

    The conversion is recorded as a step of `stage` in the lineage.

    Args:
        model: Not changed.
        layers: Target and module by path; the module's state fits the target's structure.
        stage: Who decided.
        config: Its configuration.
    """
    plan = {"kind": "convert", "layers": {path: dict(target) for path, (target, _) in layers.items()}}
    new = convert(model.module, plan)
    for path, (_, layer) in layers.items():
        new.get_submodule(path).load_state_dict(layer.state_dict())
    return model.then(new, Step(stage=stage, config=dict(config), plan=plan))


def cheaper(old: nn.Conv2d, target: Target) -> nn.Module:
    """Return the layer that `target` makes of `old`, with fresh weights, on the same device.

    Raises:
        ValueError: The target is not known or does not fit the layer.
    """
    if type(old) is not nn.Conv2d or old.padding_mode != "zeros":
        raise ValueError(
            f"a {type(old).__name__} padded with {old.padding_mode}: only a plain one, padded with zeros, can."
        )
    kind = target.get("to")
    if kind not in MAKERS:
        raise ValueError(f'a convolution becomes {", ".join(sorted(MAKERS))}; got "to": {kind!r}.')
    maker, needed, optional = MAKERS[kind]
    keys = set(target) - {"to"}
    if not needed <= keys <= needed | optional:
        raise ValueError(f"{kind} takes {sorted(needed)} and perhaps {sorted(optional)}; got {sorted(keys)}.")
    with seeded(0, "cheaper", *sorted(map(str, target.items()))):
        new = maker(old, target).to(old.weight)
    return new.requires_grad_(old.weight.requires_grad).train(old.training)


@makes("grouped", "groups", optional=("in_order", "out_order"))
def _grouped(old: nn.Conv2d, target: Target) -> nn.Module:
    """Keep the shape, in groups that do not see each other; the orders are sources as in `ChannelOrder`."""
    groups = int(target["groups"])
    if groups < 2 or old.in_channels % groups or old.out_channels % groups:
        raise ValueError(f"{old.in_channels} -> {old.out_channels} channels cannot make {groups} equal groups.")
    new = _conv(old, old.in_channels, old.out_channels, is_whole=True, groups=groups)
    orders = {key: list(target.get(key, range(size))) for key, size in _sizes(old).items()}
    for key, order in orders.items():
        if sorted(order) != list(range(_sizes(old)[key])):
            raise ValueError(f"{key} is no permutation of {_sizes(old)[key]} channels.")
    return _sequence(_order(orders["in_order"]), new, _order(orders["out_order"]))


@makes("low_rank", "rank")
def _low_rank(old: nn.Conv2d, target: Target) -> nn.Module:
    """Filter the pixels into few channels, then mix those: k x k to the rank, 1 x 1 to the outputs."""
    rank = _positive(target, "rank")
    first = _conv(old, old.in_channels, rank, is_whole=True, bias=False)
    return _sequence(first, _pointwise(old, rank))


@makes("separable", "rank")
def _separable(old: nn.Conv2d, target: Target) -> nn.Module:
    """Filter the columns, then the rows: k x 1 to the rank, 1 x k to the outputs."""
    rank = _positive(target, "rank")
    if isinstance(old.padding, str):
        raise ValueError(f"padding={old.padding!r}: only padding in numbers can be split into columns and rows.")
    parts = []
    for axis, (in_, out) in enumerate(((old.in_channels, rank), (rank, old.out_channels))):
        shape: dict[str, Any] = {name: _one_axis(getattr(old, name), axis, rest) for name, rest in _NEUTRAL.items()}
        parts.append(nn.Conv2d(in_, out, bias=axis == 1 and old.bias is not None, **shape))
    return _sequence(*parts)


@makes("decoupled", "pairs")
def _decoupled(old: nn.Conv2d, target: Target) -> nn.Module:
    """Filter each channel by itself with several filters, then mix: depthwise, pointwise."""
    pairs = _positive(target, "pairs")
    width = pairs * old.in_channels
    return _sequence(
        _conv(old, old.in_channels, width, is_whole=True, groups=old.in_channels, bias=False), _pointwise(old, width)
    )


def convolutions(layer: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions of a converted layer, in the order in which they run."""
    return [part for part in layer.modules() if isinstance(part, nn.Conv2d)]


def width_of(layer: nn.Module) -> int:
    """Return the number of output channels of a layer, converted or not.

    >>> width_of(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 8, 1)))
    8
    """
    return axis_size(layer[-1] if isinstance(layer, nn.Sequential) else layer, "out")


def group_mask(old: nn.Conv2d, target: Target) -> Tensor:
    """Return (D, C): 1 where a convolution that becomes `grouped` keeps its weight between an output and an input.

    >>> group_mask(nn.Conv2d(2, 2, 1), {"to": "grouped", "groups": 2, "out_order": [1, 0]})
    tensor([[0., 1.],
            [1., 0.]])
    """
    groups = target["groups"]
    label_D = torch.tensor(target.get("out_order", range(old.out_channels))) // (old.out_channels // groups)
    label_C = torch.empty(old.in_channels, dtype=torch.long)
    source_C = torch.tensor(target.get("in_order", range(old.in_channels)))
    label_C[source_C] = torch.arange(old.in_channels) // (old.in_channels // groups)
    return (label_D[:, None] == label_C).float()


def fill_grouped(new: nn.Module, dense: nn.Conv2d, target: Target) -> None:
    """Copy the weights of `dense` that stay into `new`, the layer that `target` makes of it; outputs are the masked's.

    The bias is moved into the order of the grouped convolution's outputs.
    """
    (conv,) = convolutions(new)
    in_order = torch.tensor(target.get("in_order", range(dense.in_channels)))
    at_output = torch.argsort(torch.tensor(target.get("out_order", range(dense.out_channels))))
    blocks_GC = in_order.view(conv.groups, -1).repeat_interleave(conv.out_channels // conv.groups, 0)
    with torch.no_grad():
        conv.weight.copy_(dense.weight[at_output[:, None], blocks_GC])
        if dense.bias is not None and conv.bias is not None:
            conv.bias.copy_(dense.bias[at_output])


def replace_at(root: nn.Module, path: str, new: nn.Module) -> None:
    """Put `new` at `path` of `root`, in place."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, new)


#: Attributes of a convolution that an axis has for itself, with the value of an axis that is not filtered.
_NEUTRAL: Mapping[str, int] = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}


def _one_axis(values: Any, axis: int, rest: int) -> tuple[int, int]:
    """Return `values` of a convolution on one axis, and `rest` on the other."""
    return (values[0], rest) if axis == 0 else (rest, values[1])


def _conv(old: nn.Conv2d, in_: int, out: int, *, is_whole: bool, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a convolution like `old`, or 1 x 1, with other channels; with bias if `old` has one and `bias` is set."""
    shape: dict[str, Any] = {name: getattr(old, name) for name in _NEUTRAL} if is_whole else {"kernel_size": 1}
    return nn.Conv2d(in_, out, groups=groups, bias=bias and old.bias is not None, **shape)


def _pointwise(old: nn.Conv2d, width: int) -> nn.Conv2d:
    return _conv(old, width, old.out_channels, is_whole=False)


def _sizes(old: nn.Conv2d) -> dict[str, int]:
    return {"in_order": old.in_channels, "out_order": old.out_channels}


def _order(source: Sequence[int]) -> nn.Module | None:
    return None if list(source) == list(range(len(source))) else ChannelOrder(len(source), source)


def _sequence(*parts: nn.Module | None) -> nn.Module:
    """Return the parts that are there, one after the other; one alone stands for itself."""
    there = [part for part in parts if part is not None]
    return there[0] if len(there) == 1 else nn.Sequential(*there)


def _positive(target: Target, key: str) -> int:
    number = int(target[key])
    if number < 1:
        raise ValueError(f"{key}={number}: at least 1.")
    return number
