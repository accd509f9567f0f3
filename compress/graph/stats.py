"""What a criterion may look at: weights and gradients of each group of channels, gathered in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compress.core.random import generator
from compress.core.task import Task
from compress.graph.slicers import is_depthwise
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
        """Gradients (N, C) of each batch's loss for a factor on the channel's weights: Σ_K w · ∂L/∂w."""
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
        sums, gates = _sum_gradients(module, members, weights, _gradients(module, weights, task, batches))
        for k, (name, member) in enumerate(members):
            if "gradient" in needs:
                found[name]["gradient"].append(_part(module, member, sums[k] / len(gates[k])))
            if "gate" in needs:
                found[name]["gate"].append(_part(module, member, torch.stack(gates[k])))
    return {group.name: GroupStats(group.name, group.num_channels, found[group.name]) for group in groups}


def _has_weight(module: nn.Module, member: Member) -> bool:
    """Return whether a member has weights that tell something of its channels."""
    layer = module.get_submodule(member.path)
    return isinstance(getattr(layer, "weight", None), nn.Parameter) and not isinstance(layer, nn.PReLU)


def _weight(module: nn.Module, path: str) -> nn.Parameter:
    weight = module.get_submodule(path).weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _part(module: nn.Module, member: Member, values: Tensor) -> Part:
    return Part(member.path, member.axis, _weight(module, member.path).ndim == 1, values)


def _channels_first(module: nn.Module, member: Member, value: Tensor) -> Tensor:
    """Return a weight, or its gradient, as (C, K): row c holds all that belongs to channel c on this axis."""
    layer = module.get_submodule(member.path)
    is_transposed = bool(getattr(layer, "transposed", False)) and not is_depthwise(layer)
    rows = value.detach().movedim(int((member.axis == "in") != is_transposed), 0)
    positions = torch.tensor(member.index, device=value.device)
    return rows[positions].reshape(len(positions), -1).clone()


def _gradients(
    module: nn.Module, weights: Mapping[str, nn.Parameter], task: Task, batches: Iterator[tuple[Tensor, Tensor]]
) -> Iterator[dict[str, Tensor]]:
    """Yield the gradient of each batch's mean loss by path. Leaves flags, modes and `.grad` as they were."""
    flags = {path: weight.requires_grad for path, weight in weights.items()}
    modes = {layer: layer.training for layer in module.modules()}
    device = next(module.parameters()).device
    try:
        module.eval()
        for weight in weights.values():
            weight.requires_grad_(True)
        for x_BCHW, y_B in batches:
            with torch.enable_grad():
                loss = task.loss(module(x_BCHW.to(device)), y_B.to(device))
                yield dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    finally:
        for layer, mode in modes.items():
            layer.training = mode
        for path, weight in weights.items():
            weight.requires_grad_(flags[path])


def _sum_gradients(
    module: nn.Module,
    members: Sequence[tuple[str, Member]],
    weights: Mapping[str, nn.Parameter],
    batches: Iterator[dict[str, Tensor]],
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return for every member the summed gradient (C, K), and the gates (C,) of each batch."""
    kernels = [_channels_first(module, member, weights[member.path]) for _, member in members]
    sums = [torch.zeros_like(kernel_CK) for kernel_CK in kernels]
    gates: list[list[Tensor]] = [[] for _ in members]
    for gradient in batches:
        for k, (_, member) in enumerate(members):
            slope_CK = _channels_first(module, member, gradient[member.path])
            sums[k] += slope_CK
            gates[k].append((kernels[k] * slope_CK).sum(1))
    return sums, gates
