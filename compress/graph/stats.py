"""What a criterion may look at: weights and gradients of each group of channels, gathered in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compress.core.random import generator
from compress.core.task import Task
from compress.graph.slicers import is_depthwise, slices_itself
from compress.graph.slopes import Slopes, slopes
from compress.graph.units import Axis, ChannelGroup, Member

#: What can be gathered. "gradient" and "gate" need data.
NEEDS = ("weight", "gradient", "gate")


class UndeclaredReadError(AttributeError):
    """A criterion read a statistic that its card does not declare."""


@dataclass(frozen=True)
class Part:
    """One member's share of a group, channels first.

    Attributes:
        path: Layer.
        axis: Axis of the layer on which the channels lie.
        is_norm: Whether it is the scale of a norm rather than a kernel.
        values: (C, K) for "weight" and "gradient"; (N, C) for "gate", one row a batch.
    """

    path: str
    axis: Axis
    is_norm: bool
    values: Tensor


class GroupStats:
    """Statistics of one group; only what was declared can be read.

    Attributes:
        name: The group's name.
        num_channels: C.
    """

    def __init__(self, name: str, num_channels: int, gathered: Mapping[str, Sequence[Part]]) -> None:
        self.name, self.num_channels = name, num_channels
        self._gathered = {need: tuple(parts) for need, parts in gathered.items()}

    @property
    def weight_parts(self) -> tuple[Part, ...]:
        """Weights (C, K) of every kernel and norm scale that produces, carries or reads the channels."""
        return self._read("weight")

    @property
    def gradient_parts(self) -> tuple[Part, ...]:
        """Mean gradients of the loss (C, K), in the order of `weight_parts`."""
        return self._read("gradient")

    @property
    def gate_parts(self) -> tuple[Part, ...]:
        """Gradients (N, C) of each batch's loss for a factor on the channel as one layer has it.

        Σ_K w · ∂L/∂w for a layer with weights, in the order of `weight_parts`; then Σ_BHW x · ∂L/∂x for layers
        that read the channel without weights (a shortcut that pads). The sum over all parts with axis "in" is
        the first-order change of the loss for a factor on the channel as everybody reads it.
        """
        return self._read("gate")

    def _read(self, need: str) -> tuple[Part, ...]:
        if need not in self._gathered:
            declared = ", ".join(self._gathered) or "nothing"
            raise UndeclaredReadError(f"{need!r} of {self.name} was not gathered: the card needs {declared}.")
        return self._gathered[need]


def gather(
    module: nn.Module,
    groups: tuple[ChannelGroup, ...],
    needs: Sequence[str],
    task: Task | None = None,
    *,
    num_batches: int = 16,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, GroupStats]:
    """Return the statistics of every group that `needs` names, and no others.

    Gradients are of the task's loss on random training inputs without augmentation, in evaluation mode.

    Args:
        module: The network; neither its weights nor their `.grad` change.
        groups: Its groups.
        needs: Of NEEDS, as a criterion's card has them.
        task: Where the data comes from; needed for "gradient" and "gate".
        num_batches: At most so many batches.
        batch_size: Inputs a batch.
        seed: Which inputs.
    """
    for need in needs:
        assert need in NEEDS, f"no statistic {need!r}; known: {NEEDS}"
    plain = [(group.name, m) for group in groups for m in group.members if _reads_without_weight(module, m)]
    members = [(group.name, member) for group in groups for member in group.members if _has_weight(module, member)]
    weights: dict[str, nn.Parameter] = {path: _weight(module, path) for path in {m.path for _, m in members}}
    found: dict[str, dict[str, list[Part]]] = {group.name: {need: [] for need in needs} for group in groups}
    if "weight" in needs:
        for name, member in members:
            found[name]["weight"].append(_part(module, member, _channels_first(module, member, weights[member.path])))
    if {"gradient", "gate"} & set(needs):
        if task is None:
            raise ValueError("this criterion looks at gradients and needs data: name a task.")
        batches = replace(task, augment=None).batches(
            "train", batch_size=batch_size, shuffle=generator(seed, "stats"), limit=num_batches * batch_size
        )
        found_slopes = slopes(module, weights, {m.path for _, m in plain}, task, batches)
        sums, gates = _sum_slopes(module, [*members, *plain], weights, found_slopes)
        for k, (name, member) in enumerate(members):
            if "gradient" in needs:
                found[name]["gradient"].append(_part(module, member, sums[k] / len(gates[k])))
        for k, (name, member) in enumerate([*members, *plain]):
            if "gate" in needs:
                found[name]["gate"].append(_part(module, member, torch.stack(gates[k])))
    return {group.name: GroupStats(group.name, group.num_channels, found[group.name]) for group in groups}


def _has_weight(module: nn.Module, member: Member) -> bool:
    """Return whether a member has weights that tell something of its channels."""
    layer = module.get_submodule(member.path)
    return isinstance(getattr(layer, "weight", None), nn.Parameter) and not isinstance(layer, nn.PReLU)


def _reads_without_weight(module: nn.Module, member: Member) -> bool:
    """Return whether a member hands channels on without a weight that could tell what they are worth."""
    return member.axis == "in" and slices_itself(module.get_submodule(member.path)) and not _has_weight(module, member)


def _weight(module: nn.Module, path: str) -> nn.Parameter:
    weight = module.get_submodule(path).weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _part(module: nn.Module, member: Member, values: Tensor) -> Part:
    is_norm = _has_weight(module, member) and _weight(module, member.path).ndim == 1
    return Part(member.path, member.axis, is_norm, values)


def _channels_first(module: nn.Module, member: Member, value: Tensor) -> Tensor:
    """Return a weight, or its gradient, as (C, K): row c holds all that belongs to channel c on this axis."""
    layer = module.get_submodule(member.path)
    is_transposed = bool(getattr(layer, "transposed", False)) and not is_depthwise(layer)
    rows = value.detach().movedim(int((member.axis == "in") != is_transposed), 0)
    positions = torch.tensor(member.index, device=value.device)
    return rows[positions].reshape(len(positions), -1).clone()


def _sum_slopes(
    module: nn.Module,
    members: Sequence[tuple[str, Member]],
    weights: Mapping[str, nn.Parameter],
    batches: Iterable[Slopes],
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return the summed gradient (C, K) of every member with weights, and the gates (C,) of each batch of every one."""
    kernels = {
        k: _channels_first(module, member, weights[member.path])
        for k, (_, member) in enumerate(members)
        if member.path in weights
    }
    sums = [torch.zeros_like(kernel_CK) for kernel_CK in kernels.values()]
    gates: list[list[Tensor]] = [[] for _ in members]
    for batch in batches:
        for k, (_, member) in enumerate(members):
            if k in kernels:
                slope_CK = _channels_first(module, member, batch.weights[member.path])
                sums[k] += slope_CK
                gates[k].append((kernels[k] * slope_CK).sum(1))
            else:
                flow_C = batch.inputs[member.path]
                gates[k].append(flow_C[torch.tensor(member.index, device=flow_C.device)].sum(1))
    return sums, gates
