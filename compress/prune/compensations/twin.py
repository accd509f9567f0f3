"""A removed channel's twin carries on for it."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.absorption import Mix
from compress.graph.parts import Moments
from compress.prune.compensations.family import COMPENSATIONS

#: Channels whose variance is this part of the largest, or less, predict nothing: they are constants and rounding.
CONSTANT = 1e-10


@COMPENSATIONS.register("twin", paper="Srinivas 2015", needs=("moment",), idea="C3")
def twin(moments: Moments, kept_C: Tensor) -> Mix:
    """Replace a removed channel by the one kept channel that it goes along with most, scaled and shifted.

    x_r ≈ a x_k + s with k = argmax_k corr(x_r, x_k)², a = cov(x_r, x_k) / var(x_k), s = E[x_r] - a E[x_k]. No other
    single kept channel leaves a smaller mean squared error, which is var(x_r) (1 - corr²).

    Args:
        moments: Means (C,) and covariances (C, C) of the channels as one layer reads them.
        kept_C: True for channels that stay.

    Returns:
        Mix with at most one weight other than 0 in each row.

    Differs from the paper: twins are found by what they do on data, behind norm and activation, not by equal weights,
    so a twin may be of another size, shifted, or (where no ReLU forbids it) opposite.

    Cost: one pass over the data for the moments.

    Reference: Srinivas and Babu, "Data-free Parameter Pruning for Deep Neural Networks", BMVC 2015, section 3.

    Channel 1 is -2 times channel 0 plus 4, channel 2 has nothing to do with them:

    >>> moments = Moments("b", 9, torch.tensor([1.0, 2.0, 5.0]), torch.tensor([[1.0, -2, 0], [-2, 4, 0], [0, 0, 1]]))
    >>> mix = twin(moments, torch.tensor([True, False, True]))
    >>> mix.weights_RK.tolist(), mix.shift_R.tolist()
    ([[-2.0, 0.0]], [4.0])
    """
    kept = kept_C.to(moments.mean_C.device)
    covariance_RK, variance_K = moments.covariance_CC[~kept][:, kept], moments.variance_C[kept]
    weights_RK, shift_R = torch.zeros_like(covariance_RK), moments.mean_C[~kept].clone()
    if weights_RK.numel() == 0:
        return Mix(weights_RK, shift_R)
    varies_K = variance_K > CONSTANT * moments.variance_C.max()
    slope_RK = torch.where(varies_K, covariance_RK / variance_K, 0.0)
    best_R1 = (slope_RK * covariance_RK).argmax(1, keepdim=True)
    weights_RK.scatter_(1, best_R1, slope_RK.gather(1, best_R1))
    return Mix(weights_RK, shift_R - weights_RK @ moments.mean_C[kept])
