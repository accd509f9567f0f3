"""Normalizers that divide all scores of a group by one number."""

from __future__ import annotations

from torch import Tensor

from compress.prune.normalizers.family import NORMALIZERS


@NORMALIZERS.register("none", is_no_op=True)
def none(scores_C: Tensor) -> Tensor:
    """Leave the scores as they are.

    s'_c = s_c.

    Args:
        scores_C: At least 0.

    Returns:
        scores_C, the same.

    Differs from the paper: no paper.

    Cost: none.

    Reference: none.

    >>> import torch
    >>> none(torch.tensor([1.0, 3.0]))
    tensor([1., 3.])
    """
    return scores_C.clone()


@NORMALIZERS.register("mean")
def mean(scores_C: Tensor) -> Tensor:
    """Divide the scores by their mean, so that the average channel of every group is worth 1.

    s'_c = s_c / mean(s). Scores that are all 0 stay 0.

    Args:
        scores_C: At least 0.

    Returns:
        scores_C with mean 1.

    Differs from the paper: no paper; Torch-Pruning's default.

    Cost: none.

    Reference: Torch-Pruning 1.6, GroupMagnitudeImportance, normalizer "mean".

    >>> import torch
    >>> mean(torch.tensor([1.0, 3.0]))
    tensor([0.5000, 1.5000])
    """
    return _divided(scores_C, scores_C.mean())


@NORMALIZERS.register("max")
def largest(scores_C: Tensor) -> Tensor:
    """Divide the scores by the largest, so that the best channel of every group is worth 1.

    s'_c = s_c / max(s). Scores that are all 0 stay 0.

    Args:
        scores_C: At least 0.

    Returns:
        scores_C in [0, 1].

    Differs from the paper: no paper.

    Cost: none.

    Reference: Torch-Pruning 1.6, GroupMagnitudeImportance, normalizer "max".

    >>> import torch
    >>> largest(torch.tensor([1.0, 4.0]))
    tensor([0.2500, 1.0000])
    """
    return _divided(scores_C, scores_C.max())


def _divided(scores_C: Tensor, scale: Tensor) -> Tensor:
    return scores_C / scale if bool(scale > 0) else scores_C.clone()
