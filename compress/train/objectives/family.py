"""The family of objectives, and what they may read besides the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compress.core.registry import Family

#: (module, taps) -> scalar that is added to the loss. What `taps` holds is what the card's `needs` names:
#: "groups", a tuple of `LiveGroup`; "progress", the part of the training that is over, in [0, 1];
#: "activations", a tuple of what each ReLU of the network gave for this batch.
OBJECTIVES: Family[Callable[..., Tensor]] = Family("objective", data=("module", "taps"))


class Penalty(Protocol):
    """A term of the loss that reads the network itself: a bound objective, or what a procedure makes up on its way."""

    def __call__(self, module: nn.Module, /) -> Tensor:
        """Return a scalar with gradients."""
        ...

    def as_json(self) -> Any:
        """Return what tells this penalty from every other one: it goes into the name of a fit's checkpoint."""
        ...


@dataclass(frozen=True, eq=False)
class LiveGroup:
    """Weights of the layers that make the channels of one group. They carry gradients to the network.

    Attributes:
        name: The group's name.
        kernels: (C, K) for each convolution or linear layer that makes the channels or filters them one by one.
        scales: (C,) weights of the norms that the channels pass.
        shifts: (C,) biases of these norms.
    """

    name: str
    kernels: tuple[Tensor, ...]
    scales: tuple[Tensor, ...] = ()
    shifts: tuple[Tensor, ...] = ()

    @property
    def num_channels(self) -> int:
        """C."""
        return len((*self.kernels, *self.scales)[0])

    def rows(self) -> Tensor:
        """Return (C, K): kernels and scales of each channel side by side.

        The scales belong to it because behind a norm the size of a kernel alone means nothing.

        >>> LiveGroup("a", (torch.tensor([[3.0], [0.0]]),), (torch.tensor([4.0, 1.0]),)).rows().tolist()
        [[3.0, 4.0], [0.0, 1.0]]
        """
        return torch.cat([*self.kernels, *(scale_C[:, None] for scale_C in self.scales)], dim=1)

    def norms(self) -> Tensor:
        """Return the length (C,) of each row; at 0 its gradient is 0.

        >>> LiveGroup("a", (torch.tensor([[3.0], [0.0]]),), (torch.tensor([4.0, 1.0]),)).norms().tolist()
        [5.0, 1.0]
        """
        return torch.linalg.vector_norm(self.rows(), dim=1)


def total(terms: list[Tensor]) -> Tensor:
    """Return the sum of scalars, 0 for none."""
    return torch.stack(terms).sum() if terms else torch.zeros(())
