"""Dense convolutions to pairs of a depthwise and a pointwise one."""

from __future__ import annotations

import torch

from compress.graph.conversion import convolutions
from compress.prune.conversions.family import CONVERSIONS, Converted, NotConvertible, Site, kept_part, made, rank_for


@CONVERSIONS.register("decoupled", paper="Guo 2018", idea="D4")
def decoupled(site: Site, *, pairs: int = 0, energy: float = 0.9) -> Converted:
    """Write a convolution as a sum of pairs, each a depthwise and then a pointwise convolution.

    W_c ≈ Σ_r≤R (s_d⁻¹ u_cr) σ_cr v_crᵀ for each input channel c: the SVD of its (s_d W_dc) as D x k² matrix; v_cr
    are the depthwise filters, the rest is pointwise.

    Args:
        site: The convolution, larger than 1 x 1.
        pairs: R, at most k²; 0 takes the fewest that keep `energy`.
        energy: Part of |s W|² to keep when `pairs` is 0, in (0, 1].

    Returns:
        A depthwise convolution with R filters a channel and a 1 x 1 one; kept energy in (0, 1], 1 for R = k².

    Differs from the paper: the pairs share one depthwise and one pointwise layer, which is the same sum in two
    operators; errors count times the batch norm's factor. Only its depthwise-first form.

    Cost: (R C k² + R C D) / (C D k²) of the multiply-adds; R above 1 is often slower than the dense layer.

    Reference: Guo et al., "Network Decoupling: From Regular to Depthwise Separable Convolutions", BMVC 2018,
    equation 4 and theorem 1.

    A kernel that is an outer product in every input channel needs one pair:

    >>> from torch import nn
    >>> layer = nn.Conv2d(1, 2, (1, 2), bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 6.0]]).view(2, 1, 1, 2))
    >>> found = decoupled(Site.of(layer))
    >>> found.target, round(found.kept_energy, 6)
    ({'to': 'decoupled', 'pairs': 1}, 1.0)
    """
    if pairs < 0:
        raise ValueError(f"pairs={pairs}: pairs of layers, or 0 for as many as `energy` takes.")
    return in_pairs(site, pairs, energy)


def in_pairs(site: Site, pairs: int, energy: float = 1.0) -> Converted:
    """Return the site's layer as `pairs` pairs, or for 0 as many as keep `energy`."""
    layer = site.layer
    size = layer.kernel_size[0] * layer.kernel_size[1]
    if size == 1:
        raise NotConvertible("a 1 x 1 convolution is pointwise already")
    if pairs > size:
        raise NotConvertible(f"{pairs} pairs are more than the {size} pixels of the kernel")
    left_CDR, value_CR, right_CRK = torch.linalg.svd(site.weighted.flatten(2).transpose(0, 1), full_matrices=False)
    squares_R = value_CR.square().sum(0)
    num = min(pairs or rank_for(squares_R, energy), len(squares_R))
    target = {"to": "decoupled", "pairs": num}
    new = made(site, target)
    depthwise, pointwise = convolutions(new)
    root_CR = value_CR[:, :num].sqrt()
    filters_CRK = root_CR[:, :, None] * right_CRK[:, :num]
    mix_DCR = (left_CDR[:, :, :num] * root_CR[:, None]).transpose(0, 1) / site.safe_scale_D[:, None, None]
    with torch.no_grad():
        depthwise.weight.copy_(filters_CRK.reshape(depthwise.weight.shape))
        pointwise.weight.copy_(mix_DCR.reshape(pointwise.weight.shape))
        if layer.bias is not None and pointwise.bias is not None:
            pointwise.bias.copy_(layer.bias)
    return Converted(target, new, kept_part(squares_R, num))
