"""All kept channels together carry on for a removed one."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.graph.absorption import Mix
from compress.graph.parts import Moments
from compress.prune.compensations.family import COMPENSATIONS


@COMPENSATIONS.register("least_squares", paper="He 2017", needs=("moment",))
def least_squares(moments: Moments, kept_C: Tensor, *, ridge: float = 1e-4) -> Mix:
    """Replace a removed channel by its best linear prediction from all kept ones.

    x_R ≈ A x_K + s with A = Σ_RK (Σ_KK + λ I)⁻¹ for the covariances Σ, s = E[x_R] - A E[x_K], and λ = ridge times the
    mean variance of the kept channels. For ridge → 0 no linear mix leaves a smaller mean squared error.

    Args:
        moments: Means (C,) and covariances (C, C) of the channels as one layer reads them.
        kept_C: True for channels that stay.
        ridge: How much large weights are held down, above 0; more is safer when few inputs were seen.

    Returns:
        Mix.

    Differs from the paper: it reconstructs each layer's output from its input with all taps of a kernel free; here
    a channel is reconstructed place by place, which needs the covariance of channels alone, has one solution for
    all outputs, and keeps the kernels' size. Statistics are those of the network before the cut, for all layers.

    Cost: one pass over the data for the moments; a Cholesky factor of (K, K) for each layer that reads the group.

    Reference: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, its
    second step.

    Channel 2 is channel 0 plus channel 1:

    >>> moments = Moments("b", 9, torch.ones(3), torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 1, 2]]))
    >>> mix = least_squares(moments, torch.tensor([True, True, False]), ridge=1e-9)
    >>> mix.weights_RK.round(decimals=4).tolist(), mix.shift_R.round(decimals=4).tolist()
    ([[1.0, 1.0]], [-1.0])
    """
    if not ridge > 0:
        raise ValueError(f"ridge={ridge!r}: it must be above 0, or kept channels that are alike have no solution.")
    if not moments.covariance_CC.isfinite().all():
        raise ValueError("activations are infinite or not a number: the network diverged, so nothing can take over.")
    kept = kept_C.to(moments.mean_C.device)
    mean_C, covariance_CC = moments.mean_C.double(), moments.covariance_CC.double()
    covariance_RK, covariance_KK = covariance_CC[~kept][:, kept], covariance_CC[kept][:, kept]
    weights_RK = torch.zeros_like(covariance_RK)
    scale = covariance_KK.diagonal().mean() if len(covariance_KK) else mean_C.new_zeros(())
    if covariance_RK.numel() and scale > 0:
        weights_RK = torch.cholesky_solve((covariance_RK / scale).T, _factor(covariance_KK / scale, ridge)).T
    return Mix(weights_RK, mean_C[~kept] - weights_RK @ mean_C[kept])


def _factor(matrix_KK: Tensor, ridge: float) -> Tensor:
    """Return the Cholesky factor of a matrix plus ridge; ten times the ridge while rounding makes it indefinite."""
    while True:
        factor_KK, failed = torch.linalg.cholesky_ex(matrix_KK + ridge * torch.eye(len(matrix_KK)).to(matrix_KK))
        if not failed:
            return factor_KK
        ridge *= 10
