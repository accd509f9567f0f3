"""Putting stored tensors back into a network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors by name into `module`, which has to be built like the network that they came from.

    A file of tensors holds no versions of layers, and some layers (torchvision's MNASNet) refuse or convert what comes
    without; the versions are those of `module`.

    Raises:
        RuntimeError: Names or shapes differ.
    """
    state: OrderedDict[str, Any] = OrderedDict(tensors)
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state)
