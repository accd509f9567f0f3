"""Dense convolutions to one filter a channel."""

from __future__ import annotations

import torch

from compress.prune.conversions.decoupled import in_pairs
from compress.prune.conversions.family import CONVERSIONS, Converted, NotConvertible, Site
from compress.prune.conversions.grouped import in_groups
from compress.prune.conversions.partition import balanced


@CONVERSIONS.register("depthwise", paper="Chollet 2017", idea="D4")
def depthwise(site: Site, *, min_gain: float = 0.05) -> Converted:
    """Filter each channel by itself; a layer that changes the number of channels mixes them afterwards.

    C = D: W'_d = W_dc for one input c a output d, a one-to-one choice that keeps most of |s_d W_dc|². C ≠ D: as
    `decoupled` with one pair.

    Args:
        site: The convolution.
        min_gain: Outputs are put into another order, which copies the feature map unless it is free, only where
            that keeps so much more of the energy.

    Returns:
        A depthwise convolution, or a depthwise and a pointwise one; kept energy in (0, 1].

    Differs from the paper: it is made from dense weights, not trained from the start; without the pointwise
    convolution where the number of channels stays, as the end of "dense, grouped, depthwise". Such a layer mixes no
    channels: use it where a neighbour does, or use `decoupled`.

    Cost: multiply-adds / C for C = D. On few threads the time falls by much less: depthwise layers wait for memory.

    Reference: Chollet, "Xception", CVPR 2017, section 1.

    >>> from torch import nn
    >>> layer = nn.Conv2d(2, 2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 1.0], [1.0, 3.0]]).view(2, 2, 1, 1))
    >>> found = depthwise(Site.of(layer))
    >>> found.layer.weight.flatten().tolist(), round(found.kept_energy, 3)
    ([3.0, 3.0], 0.9)
    """
    layer = site.layer
    if layer.in_channels != layer.out_channels:
        return in_pairs(site, 1)
    if layer.in_channels < 2:
        raise NotConvertible("one channel is filtered by itself already")
    energy_DC = site.weighted.square().sum((2, 3)).cpu()
    channel_C = torch.arange(layer.in_channels)
    gain = 0.0 if "out" in site.free_axes else min_gain
    best_D = balanced(energy_DC)
    rise = energy_DC[channel_C, best_D].sum() - energy_DC.diagonal().sum()
    label_D = best_D if rise > gain * energy_DC.sum() else channel_C
    return in_groups(site, label_D, channel_C, layer.in_channels)
