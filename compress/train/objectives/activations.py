"""What the rectifiers of a network give, for penalties on its feature maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

#: Calls that set everything below 0 to 0. `functional.relu6` is left out: it is how hard sigmoids are written.
RECTIFIERS = (functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


@contextmanager
def rectified_outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Context with a list that gets, live and in order, the output of every ReLU and ReLU6 that `module` calls.

    Layers and functions count alike. What others call meanwhile (a teacher, a loss) does not.

    >>> with rectified_outputs(nn.ReLU()) as outputs:
    ...     pass
    >>> outputs
    []
    """
    listener = _Listener()
    before = module.register_forward_pre_hook(listener.begin)
    behind = module.register_forward_hook(listener.end, always_call=True)
    try:
        yield listener.outputs
    finally:
        before.remove()
        behind.remove()


class _Listener(TorchFunctionMode):
    """Notes what rectifiers return while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def begin(self, *_: Any) -> None:
        """Listen: a forward pass begins."""
        self.__enter__()

    def end(self, *_: Any) -> None:
        """Stop listening: the forward pass is over, or failed."""
        self.__exit__(None, None, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        is_relu6 = func is functional.hardtanh and kwargs.get("min_val") == 0
        if func in RECTIFIERS or is_relu6:
            self.outputs.append(result)
        return result
