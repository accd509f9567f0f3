"""One forward and at most one backward pass a batch: what layers see, and slopes of the loss.

Slopes are taken towards weights, towards factors on the channels in front of a layer, and towards factors on
what a block adds to its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.core.task import Task

#: A layer and which side of it: what it gets ("in") or gives ("out").
Side = tuple[str, Literal["in", "out"]]
#: (values, labels_B) -> None.
Look = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of a pass over the data.

    Attributes:
        weights: Weights by path, towards which slopes are taken.
        inputs: Paths of layers for whose inputs x the sum Σ_BHW x · ∂L/∂x (C,) is taken.
        flows: Functions that get x · ∂L/∂x of a side during the backward pass.
        looks: Functions that get the x of a side during the forward pass.
        blocks: Paths of blocks.
        are_blocks_differentiated: Whether slopes are taken towards what the blocks add.
    """

    weights: Mapping[str, nn.Parameter] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    flows: Mapping[Side, Look] = field(default_factory=dict)
    looks: Mapping[Side, Look] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    are_blocks_differentiated: bool = False

    @property
    def is_differentiated(self) -> bool:
        """Whether the loss and its slopes are needed at all."""
        return bool(self.weights or self.inputs or self.flows or self.are_blocks_differentiated)


@dataclass(frozen=True)
class Slopes:
    """What one batch says.

    Attributes:
        num_inputs: Inputs in the batch.
        weights: ∂L/∂w by path of the layer.
        inputs: Σ_BHW x · ∂L/∂x (C,) by path, for x as this layer alone reads it: the slope of the loss towards a
            factor on the channel in front of the layer. Layers that were not called are missing.
        blocks: Σ (out - in) · ∂L/∂out (B,) by path of the block.
        turns: 1 - cos(in, out) (B,) by path of the block.
    """

    num_inputs: int
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    blocks: dict[str, Tensor] = field(default_factory=dict)
    turns: dict[str, Tensor] = field(default_factory=dict)


def slopes(module: nn.Module, wanted: Wanted, task: Task, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Slopes]:
    """Yield the slopes of each batch's mean loss. Leaves flags, modes, hooks and `.grad` as they were.

    Args:
        module: The network, run in evaluation mode, once a batch.
        wanted: What is asked for; without slopes there is no backward pass.
        task: Gives the loss.
        batches: Inputs (B, C, H, W) and labels (B,).
    """
    device = next(module.parameters()).device
    notes = _Notes(wanted)
    with _evaluating(module, wanted.weights), notes.hooked(module):
        for x_BCHW, y_B in batches:
            x_BCHW, notes.labels_B, notes.found = x_BCHW.to(device), y_B.to(device), Slopes(len(y_B))
            if not wanted.is_differentiated:
                with torch.no_grad():
                    module(x_BCHW)
                yield notes.found
                continue
            with torch.enable_grad():
                # A copy, so that a network may change its input in place.
                start = x_BCHW.clone().requires_grad_(True)
                loss = task.loss(module(start.clone()), notes.labels_B)
            weights = list(wanted.weights.values())
            found = torch.autograd.grad(loss, [*weights, start], materialize_grads=True)
            yield replace(notes.found, weights=dict(zip(wanted.weights, found[:-1], strict=True)))


@contextmanager
def _evaluating(module: nn.Module, weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Put every layer in evaluation mode and ask for the gradients of `weights`, for as long as this lasts."""
    flags = {path: weight.requires_grad for path, weight in weights.items()}
    modes = {layer: layer.training for layer in module.modules()}
    try:
        module.eval()
        for weight in weights.values():
            weight.requires_grad_(True)
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
        for path, weight in weights.items():
            weight.requires_grad_(flags[path])


class _Tap(torch.autograd.Function):
    """Hand a tensor x on unchanged, and call `note(kept, ∂L/∂x)` when its slope is known."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, note: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.note = note
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        ctx.note(*ctx.saved_tensors, slopes[0])
        return slopes[0], None, None


class _Notes:
    """The hooks of one pass, and what they note of the current batch."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted, self.found = wanted, Slopes(0)
        self.labels_B = torch.zeros(0)

    @contextmanager
    def hooked(self, module: nn.Module) -> Iterator[None]:
        """Hook every layer that is looked at, for as long as this lasts."""
        wanted = self.wanted
        sides = dict.fromkeys([*((path, "in") for path in wanted.inputs), *wanted.flows, *wanted.looks])
        hooks = []
        try:
            for path, side in sides:
                layer = module.get_submodule(path)
                if side == "in":
                    hooks.append(layer.register_forward_pre_hook(self._before(path)))
                else:
                    hooks.append(layer.register_forward_hook(self._behind(path)))
            for path in wanted.blocks:
                entered: list[Tensor] = []
                block = module.get_submodule(path)
                hooks.append(block.register_forward_pre_hook(lambda _, args, e=entered: e.append(args[0].detach())))
                hooks.append(block.register_forward_hook(self._around(path, entered)))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _before(self, path: str) -> Callable[..., tuple[Any, ...]]:
        """Return a hook on what a layer gets. It gets a view, whose slope leaves out other readers of the tensor."""
        return lambda _, inputs: tuple(self._tapped((path, "in"), x) if k == 0 else x for k, x in enumerate(inputs))

    def _behind(self, path: str) -> Callable[..., Any]:
        return lambda _, inputs, output: self._tapped((path, "out"), output)

    def _tapped(self, side: Side, x: Any) -> Any:
        """Look at x, and note its flow when its slope is known; what is no tensor is handed on unseen."""
        if not isinstance(x, Tensor):
            return x
        wanted, found, labels_B = self.wanted, self.found, self.labels_B
        if side in wanted.looks:
            wanted.looks[side](x.detach(), labels_B)
        has_sum = side[1] == "in" and side[0] in wanted.inputs
        if not has_sum and side not in wanted.flows:
            return x

        def note(seen: Tensor, slope: Tensor) -> None:
            flow = seen * slope
            if has_sum:
                flow_C = flow.movedim(1, 0).flatten(1).sum(1)
                found.inputs[side[0]] = found.inputs[side[0]] + flow_C if side[0] in found.inputs else flow_C
            if side in wanted.flows:
                wanted.flows[side](flow, labels_B)

        return _Tap.apply(x, x.detach(), note)

    def _around(self, path: str, entered: list[Tensor]) -> Callable[..., Tensor]:
        """Return a hook that compares what a block gives with what it got."""

        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            found, before = self.found, entered.pop()
            added = output.detach() - before
            turn_B = 1 - torch.cosine_similarity(before.flatten(1), output.detach().flatten(1), dim=1)
            found.turns[path] = turn_B.clamp(0, 2)
            if not self.wanted.are_blocks_differentiated:
                return output

            def note(added: Tensor, slope: Tensor) -> None:
                found.blocks[path] = (added * slope).flatten(1).sum(1)

            tapped: Tensor = _Tap.apply(output, added, note).clone()
            return tapped

        return hook
