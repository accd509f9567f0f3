"""Channels that are another one times a factor, merged into it."""

from __future__ import annotations

import torch

from compress.prune.conversions.family import CONVERSIONS, Merged, NotConvertible, Site


@CONVERSIONS.register("twins", paper="RoyChowdhury 2017", idea="C4")
def twins(site: Site, *, tolerance: float = 1e-4) -> Merged:
    """Merge channels whose kernels are equal up to a factor into one; those who read them add up their weights.

    Channel j goes to the nearest earlier i with |r_j / |r_j| - r_i / |r_i|| <= tolerance: V_·i += a V_·j with
    a = |r_j| / |r_i|, r the folded kernels and constant that make a channel, V the weights that read it.

    Args:
        site: Needs `rows_DK`.
        tolerance: Largest distance of the normalized kernels, in [0, 2): 0.0001 is "equal but for rounding"; more
            merges what is only similar.

    Returns:
        Pairs (removed, kept, factor > 0); kept energy in [0, 1].

    Differs from the paper: kernels are compared with batch norm and bias folded in, and up to a factor, which a ReLU
    lets through (the caller checks that); in all layers that add to the channel at once. No paper calls them twins.

    Cost: D² distances; nothing afterwards: channels go, nothing comes.

    Reference: RoyChowdhury et al., "Reducing Duplicate Filters in Deep Neural Networks", NeurIPS workshop 2017.

    >>> from torch import nn
    >>> layer = nn.Conv2d(2, 3, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0], [2.0, 1.0], [3.0, 6.0]]).view(3, 2, 1, 1))
    >>> [(j, i, round(a, 4)) for j, i, a in twins(Site.of(layer)).twins]
    [(2, 0, 3.0)]
    """
    if not 0 <= tolerance < 2:
        raise ValueError(f"tolerance={tolerance!r}: a distance of unit vectors in [0, 2); 0.0001 means equal.")
    if site.rows_DK is None:
        raise NotConvertible("its channels cannot be merged: something between them and their readers has no twins")
    rows_DK = site.rows_DK.detach().double().cpu()
    size_D = rows_DK.norm(dim=1)
    unit_DK = rows_DK / size_D.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    distance_DD = torch.cdist(unit_DK, unit_DK, compute_mode="donot_use_mm_for_euclid_dist")
    found: list[tuple[int, int, float]] = []
    kept: list[int] = []
    for j in range(len(rows_DK)):
        near = [i for i in kept if size_D[i] > 0 and distance_DD[j, i] <= tolerance]
        if size_D[j] > 0 and near:
            i = min(near, key=lambda i: float(distance_DD[j, i]))
            found.append((j, i, float(size_D[j] / size_D[i])))
        else:
            kept.append(j)
    error = sum(float((rows_DK[j] - a * rows_DK[i]).square().sum()) for j, i, a in found)
    return Merged(tuple(found), 1 - min(1.0, error / max(float(rows_DK.square().sum()), 1e-300)))
