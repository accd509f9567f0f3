"""Memory that one forward pass needs."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from compress.measure.measures import MEASURES, evaluating


@MEASURES.register("peak_memory_bytes", unit="byte")
def peak_memory_bytes(module: nn.Module, x_BCHW: Tensor) -> float:
    """Weights plus the largest input and output that one layer holds at the same time, for one input.

    max over layers of bytes(inputs and outputs), plus bytes of all parameters and buffers. Tensors that share
    memory, as those of an activation in place, count once.

    Args:
        module: Any network; its layers are the modules without children.
        x_BCHW: Inputs; the first one is used.

    Returns:
        A whole number >= 0.

    Differs from the paper: no paper. A lower bound: tensors that wait for a shortcut or a concatenation, and the
    scratch memory of a convolution, are not seen.

    Cost: one forward pass of one input.

    Reference: torch.nn.Module.register_forward_hook.

    >>> import torch
    >>> peak_memory_bytes(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), torch.zeros(1, 3))
    64
    """
    live_bytes = [0]

    def note(_: nn.Module, inputs: object, outputs: object) -> None:
        live_bytes.append(_bytes((inputs, outputs)))

    leaves = [part for part in module.modules() if not any(True for _ in part.children())]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with evaluating(module):
            module(x_BCHW[:1].clone())
    finally:
        for hook in hooks:
            hook.remove()
    return max(live_bytes) + _bytes((*module.parameters(), *module.buffers()))


def _bytes(tensors: object) -> int:
    """Return the bytes behind `tensors` (a tensor, or nested tuples, lists and dictionaries of them)."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _flat(tensors)}
    return sum(storages.values())


def _flat(tensors: object) -> Iterator[Tensor]:
    if isinstance(tensors, Tensor):
        yield tensors
    elif isinstance(tensors, dict):
        yield from _flat(list(tensors.values()))
    elif isinstance(tensors, list | tuple):
        for item in tensors:
            yield from _flat(item)
