"""Confidences: how much a network's answer asks for a second opinion.

One meaning for the whole family: a score in [0, 1], and *higher = less sure = defer*. A cascade
hands an input to the large network when its score is above a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from compress.core.registry import Family

#: (logits_BC) -> score_B in [0, 1]; higher = less sure = defer.
CONFIDENCES: Family[Callable[..., Tensor]] = Family("confidence", data=("logits_BC",))


@CONFIDENCES.register("entropy", paper="Teerapittayanon 2016")
def entropy(logits_BC: Tensor) -> Tensor:
    """Defer where the class probabilities are spread out.

    score = -sum_c p_c ln p_c / ln C, with p = softmax(logits).

    Args:
        logits_BC: Outputs (B, C), C >= 2, already divided by the temperature.

    Returns:
        Scores (B,) in [0, 1], float64: 0 for a certain answer, 1 for equal probabilities.

    Differs from the paper: divided by ln C, so that thresholds mean the same for any number of classes.

    Cost: one softmax, B * C.

    Reference: Teerapittayanon, McDanel, Kung, "BranchyNet", ICPR 2016, section III-C.

    >>> from torch import tensor
    >>> entropy(tensor([[0.0, 0.0], [1000.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    log_p_BC = logits_BC.double().log_softmax(1)
    nats_B = (log_p_BC.exp() * -log_p_BC).sum(1)
    return (nats_B / math.log(logits_BC.shape[1])).clamp(0, 1)


@CONFIDENCES.register("max_probability", paper="Hendrycks 2017")
def max_probability(logits_BC: Tensor) -> Tensor:
    """Defer where the largest class probability is small.

    score = (1 - max_c p_c) * C / (C - 1), with p = softmax(logits).

    Args:
        logits_BC: Outputs (B, C), C >= 2, already divided by the temperature.

    Returns:
        Scores (B,) in [0, 1], float64: 0 for a certain answer, 1 for equal probabilities.

    Differs from the paper: reversed and stretched to [0, 1]; the order of inputs is the same.

    Cost: one softmax, B * C.

    Reference: Hendrycks, Gimpel, "A baseline for detecting misclassified examples", ICLR 2017, section 2.

    >>> from torch import tensor
    >>> max_probability(tensor([[0.0, 0.0], [100.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    num_classes = logits_BC.shape[1]
    top_B = logits_BC.double().softmax(1).amax(1)
    return ((1 - top_B) * num_classes / (num_classes - 1)).clamp(0, 1)


@CONFIDENCES.register("margin", paper="Park 2015")
def margin(logits_BC: Tensor) -> Tensor:
    """Defer where the two most probable classes are close.

    score = 1 - (p_first - p_second), with p = softmax(logits) sorted.

    Args:
        logits_BC: Outputs (B, C), C >= 2, already divided by the temperature.

    Returns:
        Scores (B,) in [0, 1], float64: 0 for a certain answer, 1 for a tie.

    Differs from the paper: reversed (its "score margin" is high for a sure answer).

    Cost: one softmax and the two largest of C, B * C.

    Reference: Park et al., "Big/little deep neural network for ultra low power inference", CODES+ISSS 2015, section 3.

    >>> from torch import tensor
    >>> margin(tensor([[2.0, 2.0, 0.0], [100.0, 0.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    top_B2 = logits_BC.double().softmax(1).topk(2, dim=1).values
    return (1 - (top_B2[:, 0] - top_B2[:, 1])).clamp(0, 1)
