"""What is known of a group of channels: the form in which criteria and compensations get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class UndeclaredReadError(AttributeError):
    """A criterion read a statistic that its card does not declare."""


@dataclass(frozen=True)
class Part:
    """One member's share of a group.

    Attributes:
        path: Layer; the group's name where the statistic belongs to all its layers.
        axis: "in" for a layer that reads the channels, else "out".
        is_norm: Whether it is the scale of a norm rather than a kernel.
        values: (C, K), channels first; (N, C) for "gate", one row a batch, and "sample_gate", one row an input.
    """

    path: str
    axis: str
    is_norm: bool
    values: Tensor


@dataclass(frozen=True)
class FoldedPart:
    """Kernels of a layer that makes or carries channels, and what the batch norm behind makes of them.

    A channel has M positions in the layer, with K / M weights each; M is 1 but for grouped layers and heads.

    Attributes:
        path: Layer.
        plain_CK: Kernels as the layer has them.
        scale_CM: What the norm multiplies them by; 1 where there is none.
        constant_CM: What it adds, with the layer's own bias.
    """

    path: str
    plain_CK: Tensor
    scale_CM: Tensor
    constant_CM: Tensor

    @property
    def values(self) -> Tensor:
        """Kernels with the norm folded in, the constants last (C, K + M).

        >>> FoldedPart("a", torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]), torch.tensor([[4.0]])).values
        tensor([[3., 6., 4.]])
        """
        scale_CK = self.scale_CM.repeat_interleave(self.plain_CK.shape[1] // self.scale_CM.shape[1], 1)
        return torch.cat([self.plain_CK * scale_CK, self.constant_CM], 1)


@dataclass(frozen=True)
class Moments:
    """Means and covariances of channels as one layer reads them: behind norm and activation.

    Attributes:
        path: The layer that reads.
        count: Values seen of each channel, over inputs and places.
        mean_C: E[x].
        covariance_CC: E[(x - E[x]) (x - E[x])ᵀ], in double precision.
    """

    path: str
    count: int
    mean_C: Tensor
    covariance_CC: Tensor

    @property
    def variance_C(self) -> Tensor:
        """E[(x - E[x])²], at least 0."""
        return self.covariance_CC.diagonal().clamp_min(0)

    @property
    def second_CC(self) -> Tensor:
        """E[x xᵀ]."""
        return self.covariance_CC + torch.outer(self.mean_C, self.mean_C)

    def only(self, index: Tensor) -> Moments:
        """Return the moments of the channels at `index`, in that order.

        >>> moments = Moments("b", 9, torch.tensor([1.0, 2.0, 3.0]), torch.eye(3))
        >>> moments.only(torch.tensor([2, 0])).mean_C
        tensor([3., 1.])
        """
        index = index.to(self.mean_C.device)
        return Moments(self.path, self.count, self.mean_C[index], self.covariance_CC[index][:, index])


@dataclass(frozen=True)
class Activity:
    """How often and how strongly channels fire, as one layer reads them.

    Attributes:
        path: The layer that reads.
        zeros_C: Part of the values that are exactly 0.
        mean_C: E|x|.
        firing_C: Part of the values that are not 0, among inputs of the class for which it is largest.
        peak_C: E|x| among inputs of the class for which it is largest.
    """

    path: str
    zeros_C: Tensor
    mean_C: Tensor
    firing_C: Tensor
    peak_C: Tensor


class GroupStats:
    """Statistics of one group; only what was declared can be read.

    Attributes:
        name: The group's name.
        num_channels: C.
    """

    def __init__(self, name: str, num_channels: int, gathered: Mapping[str, Sequence[Any]]) -> None:
        self.name, self.num_channels = name, num_channels
        self._gathered = {need: tuple(parts) for need, parts in gathered.items()}

    @property
    def needs(self) -> frozenset[str]:
        """What was gathered."""
        return frozenset(self._gathered)

    def parts(self, need: str) -> tuple[Any, ...]:
        """Return what was gathered for `need`: a part for each member, Moments or Activity for each reader."""
        if need not in self._gathered:
            declared = ", ".join(self._gathered) or "nothing"
            raise UndeclaredReadError(f"{need!r} of {self.name} was not gathered: the card needs {declared}.")
        return self._gathered[need]

    @property
    def weight_parts(self) -> tuple[Part, ...]:
        """Weights (C, K) of every kernel and norm scale that produces, carries or reads the channels."""
        return self.parts("weight")

    @property
    def folded_parts(self) -> tuple[FoldedPart, ...]:
        """Kernels (C, K) that produce or carry the channels, and the batch norm behind each."""
        return self.parts("folded")

    @property
    def gradient_parts(self) -> tuple[Part, ...]:
        """Mean gradients of the loss (C, K), in the order of `weight_parts`."""
        return self.parts("gradient")

    @property
    def gate_parts(self) -> tuple[Part, ...]:
        """Gradients (N, C) of each batch's loss for a factor on the channel as one layer has it.

        Σ_K w · ∂L/∂w for a layer with weights, in the order of `weight_parts`; then Σ_BHW x · ∂L/∂x for layers
        that read the channel without weights (a shortcut that pads). The sum over all parts with axis "in" is
        the first-order change of the loss for a factor on the channel as everybody reads it. For the group of
        blocks there is one part, Σ (out - in) · ∂L/∂out: the slope towards a factor on what the block adds.
        """
        return self.parts("gate")

    @property
    def sample_gate_parts(self) -> tuple[Part, ...]:
        """Gradients (N, C) of each input's own loss for a factor on the channel in front of all its readers together.

        One part; none if no layer that reads the channels is called as a layer.
        """
        return self.parts("sample_gate")

    @property
    def moments(self) -> tuple[Moments, ...]:
        """Means and covariances of the channels, as each reader sees them.

        A grouped convolution, in which a channel has a position in every group, has as many as groups.
        """
        return self.parts("moment")

    @property
    def activities(self) -> tuple[Activity, ...]:
        """How often and how strongly the channels fire, as each reader sees them."""
        return self.parts("activity")

    @property
    def rank_parts(self) -> tuple[Part, ...]:
        """Mean effective rank e^H(σ / Σσ) of the channels' maps (C, 1), for each reader that sees maps; may be empty.

        A group that is read by linear layers alone is looked at where its last layer hands it on.
        """
        return self.parts("spectrum")

    @property
    def influence_parts(self) -> tuple[Part, ...]:
        """By how much each reader's input turns without the channel, 1 - cos, mean over inputs (C, 1).

        For the group of blocks there is one part, of the block's output against its input.
        """
        return self.parts("influence")
