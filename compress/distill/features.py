"""Feature maps of a network: which modules give them, and how they are caught in passing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.train.scoring import evaluating


def last_of_each_size(module: nn.Module, x_BCHW: Tensor) -> dict[tuple[int, int], str]:
    """Return the path of the last module that gives a feature map of each height and width.

    These are the ends of a network's stages. Maps of one pixel are left out.

    Args:
        module: A network; it is run once in evaluation mode and left as it was.
        x_BCHW: An example input.
    """
    found: dict[tuple[int, int], str] = {}

    def note(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2:].numel() > 1:
                found[int(output.shape[-2]), int(output.shape[-1])] = path

        return hook

    handles = [part.register_forward_hook(note(path)) for path, part in module.named_modules() if path]
    try:
        with evaluating(module):
            module(x_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    return dict(sorted(found.items(), reverse=True))


@contextmanager
def caught(module: nn.Module, paths: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
    """Context in which the outputs of the modules at `paths` are put into the mapping it gives."""
    outputs: dict[str, Tensor] = {}

    def note(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            outputs[path] = output

        return hook

    handles = [module.get_submodule(path).register_forward_hook(note(path)) for path in paths]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def shapes_at(module: nn.Module, paths: Sequence[str], x_BCHW: Tensor) -> dict[str, torch.Size]:
    """Return the shape of the output of each module at `paths` for an example input."""
    with evaluating(module), caught(module, paths) as outputs:
        module(x_BCHW)
    return {path: outputs[path].shape for path in paths}
