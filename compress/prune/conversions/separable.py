"""Dense convolutions to one over columns and one over rows."""

from __future__ import annotations

import torch

from compress.graph.conversion import convolutions
from compress.prune.conversions.family import CONVERSIONS, Converted, NotConvertible, Site, kept_part, made, rank_for


@CONVERSIONS.register("separable", paper="Jaderberg 2014", idea="D4")
def separable(site: Site, *, rank: int = 0, energy: float = 0.9) -> Converted:
    """Write a k x k convolution as a k x 1 and a 1 x k convolution with few channels in between.

    s W, as (C kh) x (D kw) matrix, = U Σ Vᵀ; the k x 1 layer has (U √Σ)ᵀ, the 1 x k layer s⁻¹ √Σ Vᵀ, cut to the rank.

    Args:
        site: The convolution, higher and wider than one pixel.
        rank: Channels in between, at most min(C kh, D kw); 0 takes the fewest that keep `energy`.
        energy: Part of |s W|² to keep when `rank` is 0, in (0, 1].

    Returns:
        Two convolutions; kept energy in (0, 1], 1 at full rank, where the outputs are the old ones.

    Differs from the paper: the closed-form solution of Tai 2016 instead of gradient descent; errors count times the
    batch norm's factor.

    Cost: r (C kh + D kw) / (C D kh kw) of the multiply-adds, a little more with strides.

    Reference: Jaderberg et al., "Speeding up Convolutional Neural Networks with Low Rank Expansions", BMVC 2014,
    scheme 2; Tai et al., "Convolutional Neural Networks with Low-Rank Regularization", ICLR 2016, theorem 1.

    An outer product needs one channel in between:

    >>> from torch import nn
    >>> layer = nn.Conv2d(1, 1, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 6.0]]).view(1, 1, 2, 2))
    >>> found = separable(Site.of(layer))
    >>> found.target, round(found.kept_energy, 6)
    ({'to': 'separable', 'rank': 1}, 1.0)
    """
    layer = site.layer
    if 1 in layer.kernel_size:
        raise NotConvertible(f"a kernel of {layer.kernel_size[0]} x {layer.kernel_size[1]} has nothing to separate")
    columns_CHDW = site.weighted.permute(1, 2, 0, 3)
    left, value_R, right = torch.linalg.svd(columns_CHDW.flatten(2).flatten(0, 1), full_matrices=False)
    if rank < 0:
        raise ValueError(f"rank={rank}: channels in between, or 0 for as many as `energy` takes.")
    if rank > len(value_R):
        raise NotConvertible(f"rank {rank} is above {len(value_R)}, the full rank of this layer")
    num = rank or rank_for(value_R.square(), energy)
    target = {"to": "separable", "rank": num}
    new = made(site, target)
    down, across = convolutions(new)
    root_R = value_R[:num].sqrt()
    rows_RDW = (root_R[:, None] * right[:num]).view(num, *columns_CHDW.shape[2:]) / site.safe_scale_D[:, None]
    with torch.no_grad():
        down.weight.copy_((left[:, :num] * root_R).T.reshape(down.weight.shape))
        across.weight.copy_(rows_RDW.transpose(0, 1)[:, :, None])
        if layer.bias is not None and across.bias is not None:
            across.bias.copy_(layer.bias)
    return Converted(target, new, kept_part(value_R.square(), num))
