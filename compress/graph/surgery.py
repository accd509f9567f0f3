"""The only module that rewrites a network: (model, plan) -> a new, smaller model. Needs no tracing to replay.

A plan is JSON and self-contained::

    {"kind": "cut", "dropped": ["layer1.1"], "layers": {"conv1": {"out": [0, 2]}, "layer1.0.conv1": {"in": [0, 2]}}}

The lists name the positions that stay.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.lineage import PLAN_KINDS, Step
from compress.core.model import Model
from compress.graph.attention import fitted, loosened
from compress.graph.slicers import axis_size, parameter_axis, sliced, slicer_of, zero
from compress.graph.units import ChannelGroup, is_inside, kept_masks


def plan_from_kept(
    groups: tuple[ChannelGroup, ...], kept: Mapping[str, Tensor], dropped: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the plan that keeps the channels marked in `kept` and leaves out the blocks `dropped`.

    Args:
        groups: The network's groups.
        kept: Boolean mask (C,) by group name, at least one True; groups without a mask stay whole.
        dropped: Paths of blocks; what lies inside needs no cutting.

    Returns:
        JSON with nothing but the axes that change. `{"dropped": [], "layers": {}}` changes nothing.
    """
    layers: dict[str, dict[str, list[int]]] = {}
    for (path, axis), (positions, size) in _removed(groups, kept, dropped).items():
        layers.setdefault(path, {})[axis] = [i for i in range(size) if i not in positions]
    return {"kind": "cut", "dropped": sorted(dropped), "layers": layers}


def changes_nothing(plan: Mapping[str, Any]) -> bool:
    """Return whether applying `plan` is a no-op."""
    return not plan["dropped"] and not plan["layers"]


@PLAN_KINDS.register("cut")
def cut(module: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
    """Return a copy of a network without the channels and blocks that a plan leaves out.

    Raises:
        ValueError: The plan does not fit the network; says where.
    """
    check_plan(module, plan)
    return cut_in_place(copy.deepcopy(module), plan)


def cut_in_place(smaller: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
    """Do the same to a network that is the caller's own, with a plan that fits. Tensors are replaced, not changed."""
    for path in plan["dropped"]:
        smaller = _replaced(smaller, path, nn.Identity())
    smaller = loosened(smaller, tuple(plan["layers"]))
    for path, axes in plan["layers"].items():
        layer = smaller.get_submodule(path)
        try:
            new = sliced(layer, axes)
            smaller = smaller if new is layer else _replaced(smaller, path, new)
        except ValueError as error:
            raise ValueError(f"cutting {path}: {error}") from error
    return fitted(smaller)


def apply(model: Model, plan: Mapping[str, Any], *, stage: str, config: Mapping[str, Any]) -> Model:
    """Return the model that `plan` makes of `model`; the cut is recorded as a step of `stage` in the lineage."""
    return model.then(cut(model.module, plan), Step(stage=stage, config=dict(config), plan=dict(plan)))


def masked(
    module: nn.Module, groups: tuple[ChannelGroup, ...], kept: Mapping[str, Tensor], dropped: Sequence[str] = ()
) -> nn.Module:
    """Return a copy of full size in which the channels not kept carry nothing.

    Its outputs are those of the cut network: whatever reads a removed channel has zero weights for it, and norms
    over channels leave it out.
    """
    copied = cut(module, {"kind": "cut", "dropped": list(dropped), "layers": {}})
    for (path, axis), (positions, _) in _removed(groups, kept, dropped).items():
        zero(copied.get_submodule(path), axis, torch.tensor(sorted(positions)))
    return copied


def _removed(
    groups: tuple[ChannelGroup, ...], kept: Mapping[str, Tensor], dropped: Sequence[str]
) -> dict[tuple[str, str], tuple[set[int], int]]:
    """Return the positions that go, and the size, of every axis that loses some."""
    masks = kept_masks(groups, kept)
    removed: dict[tuple[str, str], tuple[set[int], int]] = {}
    for group in groups:
        if masks[group.name].all():
            continue
        for member in group.members:
            if not is_inside(member.path, list(dropped)):
                positions, _ = removed.setdefault((member.path, member.axis), (set(), member.size))
                positions.update(member.positions(~masks[group.name]))
    return removed


def check_plan(module: nn.Module, plan: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the place, unless `plan` can be applied to `module`."""
    if plan.get("kind") != "cut" or set(plan) != {"kind", "dropped", "layers"}:
        raise ValueError(f'a cut plan has "kind": "cut", "dropped" and "layers"; got {sorted(plan)}.')
    paths = {path for path, _ in module.named_modules()}
    for path in (*plan["dropped"], *plan["layers"]):
        if path not in paths or (not path and path in plan["dropped"]):
            raise ValueError(f"the plan names {path!r}, which this network has not: the plan was made for another one.")
    for path, axes in plan["layers"].items():
        layer = module.get_submodule(path)
        own = {axis for axis in axes if parameter_axis(axis) is None}
        if own and slicer_of(layer) is None:
            raise ValueError(f"{path} is a {type(layer).__name__}: no slicer is registered for it (graph/slicers.py).")
        if is_inside(path, plan["dropped"]):
            raise ValueError(f"the plan cuts {path} inside a block that it drops.")
        if not axes or not own <= {"out", "in"}:
            raise ValueError(f'{path}: a plan knows the axes "out", "in" and "parameter.0"; got {sorted(axes)}.')
        for axis, kept in axes.items():
            _check_positions(f"{path} {axis}", kept, axis_size(layer, axis))


def _check_positions(place: str, kept: Sequence[int], size: int) -> None:
    if not kept:
        raise ValueError(f"{place}: the plan keeps nothing; at least one channel must stay.")
    if any(a >= b for a, b in pairwise(kept)):
        raise ValueError(f"{place}: kept positions must ascend without repeats.")
    if kept[0] < 0 or kept[-1] >= size:
        raise ValueError(f"{place}: kept positions {kept[0]}…{kept[-1]} leave the axis of {size} channels.")


def _replaced(root: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Put `new` at `path` of `root`, in place. The root itself has no path and is never replaced."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, new)
    return root
