"""Feature maps with more zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.train.objectives.family import OBJECTIVES


@OBJECTIVES.register("activation_sparsity", paper="Georgiadis 2019", needs=("activations",), idea="C6")
def activation_sparsity(module: nn.Module, taps: Mapping[str, Any], *, weight: float = 0.1) -> Tensor:
    """Shrink what the rectifiers give, so that feature maps become sparse and needless ones fall silent.

    R = weight · mean over rectifiers of mean_BCHW |a|.

    Args:
        module: Not read.
        taps: "activations": what each ReLU and ReLU6 gave for this batch.
        weight: Factor of the term beside the loss.

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: The network has no ReLU, so nothing would become 0.

    Differs from the paper: every map counts alike, by its mean instead of its sum with a factor a layer; no
    quantization or coding of the maps follows.

    Cost: one pass over the activations a step, which are in memory anyway.

    Reference: Georgiadis, "Accelerating Convolutional Neural Networks via Activation Map Compression", CVPR 2019,
    cost function with the L1 norms of the maps in section 3.

    Means 1 and 3:

    >>> maps = (torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0]]))
    >>> float(activation_sparsity(None, {"activations": maps}, weight=1.0))
    2.0
    """
    maps = taps["activations"]
    if not maps:
        raise ValueError("activation_sparsity acts on ReLUs, and this network has none: use 'kernel_sparsity'.")
    return weight * torch.stack([map_BCHW.float().abs().mean() for map_BCHW in maps]).mean()
