"""The constant that a removed channel passed on goes into the next layer's bias."""

from __future__ import annotations

from torch import Tensor

from compress.graph.absorption import Mix
from compress.graph.parts import Moments
from compress.prune.compensations.family import COMPENSATIONS


@COMPENSATIONS.register("bias_absorption", paper="Ye 2018", needs=("moment",))
def bias_absorption(moments: Moments, kept_C: Tensor) -> Mix:
    """Replace a removed channel by its mean.

    x_r ≈ E[x_r], which goes into the bias of whoever read it, or into the running mean of the batch norm behind.

    Args:
        moments: Means (C,) of the channels as one layer reads them.
        kept_C: True for channels that stay.

    Returns:
        Mix without weights: nothing of a removed channel's variation stays.

    Differs from the paper: the mean over data behind norm and activation, which holds for every activation and for
    channels that several layers write; the paper takes relu(β) of channels whose scale γ is 0 already.

    Cost: one pass over the data for the means.

    Reference: Ye et al., "Rethinking the Smaller-Norm-Less-Informative Assumption in Channel Pruning of Convolution
    Layers", ICLR 2018, section 4.

    >>> import torch
    >>> bias_absorption(Moments("b", 4, torch.tensor([1.0, 2.0]), torch.eye(2)), torch.tensor([True, False])).shift_R
    tensor([2.])
    """
    removed_C = ~kept_C.to(moments.mean_C.device)
    return Mix(moments.mean_C.new_zeros(int(removed_C.sum()), int(kept_C.sum())), moments.mean_C[removed_C])
