"""Dense convolutions to convolutions in groups."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from compress.graph.conversion import fill_grouped
from compress.prune.conversions.family import CONVERSIONS, Converted, NotConvertible, Site, made, same
from compress.prune.conversions.partition import consecutive, copartition, fitted, kept_energy, orders

Permuted = Literal["both", "in", "out", "none"]


@CONVERSIONS.register("grouped", paper="Krizhevsky 2012", idea="D4")
def grouped(site: Site, *, groups: int = 4, permuted: Permuted = "both", min_gain: float = 0.05) -> Converted:
    """Split a convolution into groups that do not see each other, channels put together to keep most energy.

    W'_dc = W_dc where output d and input c are in one group, else 0; the groups are equal in size and chosen to keep
    Σ_dc [same group] |s_d W_dc|², s_d the batch norm's factor.

    Args:
        site: The convolution.
        groups: Number of groups; must divide both numbers of channels. 1 changes nothing.
        permuted: Which channels may be put into another order.
        min_gain: An order that has to copy the feature map is used only where it keeps so much more of the energy.

    Returns:
        A convolution with groups, between `ChannelOrder`s where they are needed; kept energy in (0, 1].

    Differs from the paper: it trains groups from the start, to fit two GPUs; here they are found in trained
    weights, by balanced assignment instead of learned (as CondenseNet and FLGC do).

    Cost: multiply-adds / groups, plus a copy of the feature map an order. Finding the groups: an SVD of a D x C matrix.

    Reference: Krizhevsky et al., "ImageNet Classification with Deep CNNs", NeurIPS 2012, section 3.5; Huang et al.,
    "CondenseNet", CVPR 2018, section 4.1.

    Outputs that each see the other group's input, put right by an order of the outputs:

    >>> import torch
    >>> from torch import nn
    >>> layer = nn.Conv2d(2, 2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 3.0], [3.0, 1.0]]).view(2, 2, 1, 1))
    >>> found = grouped(Site.of(layer), groups=2)
    >>> found.target["out_order"], round(found.kept_energy, 3)
    ([1, 0], 0.9)
    """
    if groups < 1:
        raise ValueError(f"groups={groups}: at least 1; 2, 4 and 8 are usual.")
    layer = site.layer
    if groups == 1:
        return same(site)
    if layer.in_channels % groups or layer.out_channels % groups:
        raise NotConvertible(
            f"{groups} groups do not divide both {layer.in_channels} and {layer.out_channels} channels"
        )
    energy_DC = site.weighted.square().sum((2, 3)).cpu()
    return in_groups(site, *_labels(site, energy_DC, groups, permuted, min_gain), groups)


def in_groups(site: Site, label_D: Tensor, label_C: Tensor, groups: int) -> Converted:
    """Return the site's layer in the groups that the labels give."""
    target: dict[str, Any] = {"to": "grouped", "groups": groups}
    for key, order in zip(("in_order", "out_order"), orders(label_D, label_C), strict=True):
        if order != list(range(len(order))):
            target[key] = order
    new = made(site, target)
    fill_grouped(new, site.layer, target)
    energy_DC = site.weighted.square().sum((2, 3)).cpu()
    return Converted(target, new, float(kept_energy(energy_DC, label_D, label_C)))


def _labels(site: Site, energy_DC: Tensor, groups: int, permuted: Permuted, min_gain: float) -> tuple[Tensor, Tensor]:
    """Return the labels that keep most energy, less `min_gain` for each order that costs a copy."""
    num_outputs, num_inputs = energy_DC.shape
    rest_D, rest_C = consecutive(num_outputs, groups), consecutive(num_inputs, groups)
    choices: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {(): (rest_D, rest_C)}
    if permuted in ("both", "out"):
        choices["out",] = (fitted(energy_DC, rest_C, groups), rest_C)
    if permuted in ("both", "in"):
        choices["in",] = (rest_D, fitted(energy_DC.T, rest_D, groups))
    if permuted == "both":
        choices["in", "out"] = copartition(energy_DC, groups)

    def worth(axes: tuple[str, ...]) -> float:
        return float(kept_energy(energy_DC, *choices[axes])) - min_gain * len(set(axes) - site.free_axes)

    return choices[max(choices, key=worth)]
