"""Dense convolutions to a thin one and a mixture of its channels."""

from __future__ import annotations

import torch

from compress.graph.conversion import convolutions
from compress.prune.conversions.family import CONVERSIONS, Converted, NotConvertible, Site, kept_part, made, rank_for


@CONVERSIONS.register("low_rank", paper="Denil 2013", idea="D4")
def low_rank(site: Site, *, rank: int = 0, energy: float = 0.9) -> Converted:
    """Write a convolution as one with few outputs and a 1 x 1 convolution that mixes them.

    s W = U Σ Vᵀ as D x (C k²) matrix; the k x k layer has √Σ Vᵀ, the 1 x 1 layer s⁻¹ U √Σ, cut to the rank.

    Args:
        site: The convolution.
        rank: Channels in between, at most min(D, C k²); 0 takes the fewest that keep `energy`.
        energy: Part of |s W|² to keep when `rank` is 0, in (0, 1].

    Returns:
        Two convolutions; kept energy in (0, 1], 1 at full rank, where the outputs are the old ones.

    Differs from the paper: errors count times the batch norm's factor, instead of all alike.

    Cost: r (C k² + D) / (C D k²) of the multiply-adds: less than before for r < D C k² / (C k² + D).

    Reference: Denil et al., "Predicting Parameters in Deep Learning", NeurIPS 2013, section 2; the two layers as in
    Zhang et al., "Accelerating Very Deep Convolutional Networks", TPAMI 2016, section 3.1.

    Two outputs, one twice the other, need one channel in between:

    >>> from torch import nn
    >>> layer = nn.Conv2d(2, 2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 3.0], [2.0, 6.0]]).view(2, 2, 1, 1))
    >>> found = low_rank(Site.of(layer))
    >>> found.target, round(found.kept_energy, 6)
    ({'to': 'low_rank', 'rank': 1}, 1.0)
    """
    layer = site.layer
    left_DR, value_R, right_RK = torch.linalg.svd(site.weighted.flatten(1), full_matrices=False)
    if rank < 0:
        raise ValueError(f"rank={rank}: channels in between, or 0 for as many as `energy` takes.")
    if rank > len(value_R):
        raise NotConvertible(f"rank {rank} is above {len(value_R)}, the full rank of this layer")
    num = rank or rank_for(value_R.square(), energy)
    target = {"to": "low_rank", "rank": num}
    new = made(site, target)
    first, second = convolutions(new)
    root_R = value_R[:num].sqrt()
    with torch.no_grad():
        first.weight.copy_((root_R[:, None] * right_RK[:num]).reshape(first.weight.shape))
        mix_DR = left_DR[:, :num] * root_R / site.safe_scale_D[:, None]
        second.weight.copy_(mix_DR.reshape(second.weight.shape))
        if layer.bias is not None and second.bias is not None:
            second.bias.copy_(layer.bias)
    return Converted(target, new, kept_part(value_R.square(), num))
