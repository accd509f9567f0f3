"""One backward pass a batch: slopes of the loss towards weights, and towards channels read without weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.task import Task


@dataclass(frozen=True)
class Slopes:
    """What one batch says.

    Attributes:
        weights: ∂L/∂w by path of the layer.
        inputs: Σ_BHW x · ∂L/∂x (C,) by path of a layer without weights, for x as this layer alone reads it:
            the slope of the loss towards a factor on the channel in front of the layer.
    """

    weights: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]


def slopes(
    module: nn.Module,
    weights: Mapping[str, nn.Parameter],
    readers: Collection[str],
    task: Task,
    batches: Iterator[tuple[Tensor, Tensor]],
) -> Iterator[Slopes]:
    """Yield the slopes of each batch's mean loss. Leaves flags, modes, hooks and `.grad` as they were.

    Args:
        module: The network, run in evaluation mode.
        weights: Weights by path.
        readers: Paths of layers without weights whose inputs count.
        task: Gives the loss.
        batches: Inputs (B, C, H, W) and labels (B,).
    """
    device = next(module.parameters()).device
    with _evaluating(module, weights), _noting(module, readers) as seen:
        for x_BCHW, y_B in batches:
            with torch.enable_grad():
                loss = task.loss(module(x_BCHW.to(device)), y_B.to(device))
            paths = [path for path, own in seen.items() for _ in own]
            inputs = [x for own in seen.values() for x in own]
            found = torch.autograd.grad(loss, [*weights.values(), *inputs], materialize_grads=True)
            flows: dict[str, Tensor] = {}
            for path, x, slope in zip(paths, inputs, found[len(weights) :], strict=True):
                flow_C = (x.detach() * slope).movedim(1, 0).flatten(1).sum(1)
                flows[path] = flows[path] + flow_C if path in flows else flow_C
            for own in seen.values():
                own.clear()
            yield Slopes(dict(zip(weights, found[: len(weights)], strict=True)), flows)


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


@contextmanager
def _noting(module: nn.Module, readers: Collection[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Note what each reader gets. It gets a copy, so that its slope leaves out the other readers of a tensor."""
    seen: dict[str, list[Tensor]] = {path: [] for path in readers}

    def note(path: str) -> Callable[..., tuple[Any, ...]]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            seen[path].append(inputs[0].clone())
            return (seen[path][-1], *inputs[1:])

        return hook

    hooks = [module.get_submodule(path).register_forward_pre_hook(note(path)) for path in readers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
