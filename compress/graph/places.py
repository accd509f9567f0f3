"""Where the channels of a group lie in a layer: rows of its weights, slices of what it gets and gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from compress.graph.parts import FoldedPart, Part
from compress.graph.slicers import channel_dim, is_depthwise, parameter_axis, slices_itself
from compress.graph.units import Member
from compress.train.folding import scale_of


class Place:
    """One member of a group together with its layer.

    Attributes:
        group: Name of the group.
        member: The axis and positions that the group touches.
        layer: The layer.
        reads: Whether the layer reads the channels, rather than making them or handing them on.
        weight: The parameter that tells something of the channels, or None.
        weight_name: Its name in the network.
        dim: Dimension of the weight along which the channels lie; of a grouped convolution in part.
        is_norm: Whether it is the scale of a norm.
    """

    def __init__(self, module: nn.Module, group: str, member: Member) -> None:
        self.group, self.member = group, member
        self.layer: Any = module.get_submodule(member.path)
        name, self.dim = parameter_axis(member.axis) or ("weight", _dim(self.layer, member.axis))
        weight = getattr(self.layer, name, None)
        is_told = isinstance(weight, nn.Parameter) and _tells(self.layer, member.axis, name, weight)
        self.weight: nn.Parameter | None = weight if is_told else None
        self.weight_name = f"{member.path}.{name}"
        is_flat = self.weight is not None and (self.weight.ndim == 1 or parameter_axis(member.axis) is not None)
        self.is_norm = self.weight is not None and is_flat and self.weight.numel() == self.weight.shape[self.dim]
        self.reads = member.axis == "in" or (is_told and name != "weight" and self.dim == 1)
        index_CM = torch.tensor(member.index)
        is_all = torch.equal(index_CM.flatten(), torch.arange(member.size)) and member.multiplicity == 1
        self._index_CM = None if is_all else index_CM

    @property
    def reads_without_weight(self) -> bool:
        """Whether the layer hands channels on without a weight that could tell what they are worth."""
        return self.member.axis == "in" and slices_itself(self.layer) and self.weight is None

    @property
    def makes_channels(self) -> bool:
        """Whether the layer has kernels, dense or depthwise, whose outputs are the channels."""
        return not self.reads and self.weight is not None and not self.is_norm

    @property
    def num_kernel_groups(self) -> int:
        """In how many groups of a convolution each channel has a position of its own; 1 for most."""
        is_grouped = isinstance(self.layer, _ConvNd) and self.member.multiplicity == self.layer.groups
        return self.member.multiplicity if is_grouped else 1

    def part(self, values: Tensor) -> Part:
        """Return `values` as this member's share."""
        return Part(self.member.path, "in" if self.reads else "out", self.is_norm, values)

    def rows(self, value: Tensor) -> Tensor:
        """Return a weight, or its gradient, as (C, K): row c holds all that belongs to channel c on this axis."""
        value = value.detach()
        if self.dim == 1 and isinstance(self.layer, _ConvNd) and self.layer.groups > 1:
            rows = value.unflatten(0, (self.layer.groups, -1)).movedim(2, 1).flatten(0, 1)
        else:
            rows = value.movedim(self.dim, 0)
        own = rows if self._index_CM is None else rows[self._index_CM.to(value.device)]
        return own.reshape(len(self.member.index), -1).contiguous()

    @property
    def bias_name(self) -> str:
        """Name in the layer of the parameter that is added to what the weight makes, if there is one."""
        return self.weight_name.rpartition(".")[2].removesuffix("weight") + "bias"

    def folded_part(self, rows_CK: Tensor, norm: Any, *, has_bias: bool) -> FoldedPart:
        """Return rows of the weight together with what is added and what a batch norm behind the layer does to both.

        Args:
            rows_CK: The rows.
            norm: The batch norm, or None.
            has_bias: Whether a bias of the layer belongs to the channels.
        """
        bias_S = getattr(self.layer, self.bias_name, None) if has_bias else None
        bias_S = bias_S.detach() if isinstance(bias_S, Tensor) else rows_CK.new_zeros(self.member.size)
        scale_S = torch.ones_like(bias_S)
        if norm is not None:
            scale_S = scale_of(norm).detach()
            shift_S = torch.zeros_like(bias_S) if norm.bias is None else norm.bias.detach()
            bias_S = (bias_S - norm.running_mean) * scale_S + shift_S
        scale_CM, constant_CM = (self.pick(value_S[None, :, None])[0] for value_S in (scale_S, bias_S.clone()))
        return FoldedPart(self.member.path, rows_CK, scale_CM, constant_CM)

    def pick(self, all_BSP: Tensor) -> Tensor:
        """Return the group's own channels (B, C, P) of all channels (B, S, P) of the axis; P has M places each."""
        if self._index_CM is None:
            return all_BSP
        return all_BSP[:, self._index_CM.to(all_BSP.device)].flatten(2)

    def channels_first(self, x: Tensor, num_inputs: int) -> Tensor:
        """Return what the layer gets or gives as (B, S, P): inputs, channels, places.

        Args:
            x: The tensor; its first dimension may hold several rows an input (windows of a picture).
            num_inputs: B.
        """
        x = x.movedim(_channel_dim(self.layer), 1)
        x_RSP = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
        if len(x_RSP) == num_inputs:
            return x_RSP
        return x_RSP.unflatten(0, (num_inputs, -1)).movedim(1, 2).flatten(2)

    def map_size(self, x: Tensor) -> tuple[int, ...]:
        """Return the extent in space of what the layer gets or gives; () for vectors."""
        return tuple(x.movedim(_channel_dim(self.layer), 1).shape[2:])


def _dim(layer: nn.Module, axis: str) -> int:
    """Return the dimension of a layer's weight that holds an axis."""
    is_transposed = bool(getattr(layer, "transposed", False)) and not is_depthwise(layer)
    return int((axis == "in") != is_transposed)


def _tells(layer: nn.Module, axis: str, name: str, weight: nn.Parameter) -> bool:
    """Return whether a parameter's size says something of channels: kernels and scales do, slopes and shifts do not.

    Of parameters that belong to no known layer these are matrices that are called a weight, and scales.
    """
    own = parameter_axis(axis)
    if own is None:
        return not isinstance(layer, nn.PReLU)
    if weight.numel() == weight.shape[own[1]]:
        return "scale" in name or "gamma" in name
    return weight.ndim == 2 and name.endswith("weight")


def _channel_dim(layer: nn.Module) -> int:
    """Return the dimension of a layer's input and output on which channels lie."""
    if isinstance(layer, _ConvNd | _NormBase | nn.GroupNorm | nn.LayerNorm | nn.PReLU):
        return channel_dim(layer)
    return 1 if slices_itself(layer) else -1
