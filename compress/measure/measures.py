"""Measures: numbers that say what a network costs. Here those that are counted, without a clock.

`latency` and `memory` hold those that come from running it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compress.core.registry import Family

#: (module, x_BCHW) -> number; the module comes back as it was. Extra fact on the card: unit.
MEASURES: Family[Callable[..., float]] = Family("measure", data=("module", "x_BCHW"))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Put `module` into evaluation mode without gradients, and every part back into its mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            yield module.eval()
    finally:
        for part, mode in modes.items():
            part.training = mode


@MEASURES.register("params", unit="1")
def params(module: nn.Module, x_BCHW: Tensor) -> float:
    """Number of parameters, shared ones counted once.

    Args:
        module: Any network.
        x_BCHW: Not used.

    Returns:
        A whole number >= 0.

    Differs from the paper: no paper. Running statistics of batch norm are no parameters.

    Cost: none.

    Reference: torch.nn.Module.parameters.

    >>> params(nn.Linear(3, 2), torch.zeros(1, 3))
    8
    """
    return sum(parameter.numel() for parameter in module.parameters())


@MEASURES.register("macs", unit="1")
def macs(module: nn.Module, x_BCHW: Tensor) -> float:
    """Multiply-adds of all convolutions, linear layers and matrix products for one input.

    A convolution counts D·H'·W'·(C / groups)·kh·kw. Biases, normalisation, activations and pooling count nothing.

    Args:
        module: Any network.
        x_BCHW: Inputs; the first one is used.

    Returns:
        A whole number >= 0; one multiply and one add together count 1.

    Differs from the paper: no paper.

    Cost: one forward pass of one input.

    Reference: torch.utils.flop_counter.FlopCounterMode, divided by 2.

    >>> macs(nn.Conv2d(3, 4, 3, padding=1), torch.zeros(2, 3, 5, 5))
    2700
    """
    with evaluating(module), _plain_attention(), FlopCounterMode(display=False) as counter:
        module(x_BCHW[:1])
    return counter.get_total_flops() // 2


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep torch from fused attention, whose products the counter cannot see."""
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)


@MEASURES.register("size_bytes", unit="byte")
def size_bytes(module: nn.Module, x_BCHW: Tensor) -> float:
    """Size of the weights as a safetensors file, without writing it.

    Args:
        module: Any network.
        x_BCHW: Not used.

    Returns:
        A whole number > 0: the length of `weights.safetensors` in a saved model.

    Differs from the paper: no paper.

    Cost: a copy of the weights in memory.

    Reference: safetensors.torch.save.

    8 bytes of length, 120 of names and shapes, 8 numbers of 4 bytes:

    >>> size_bytes(nn.Linear(3, 2), torch.zeros(1, 3))
    160
    """
    from safetensors.torch import save

    return len(save({name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}))
