"""Latency of one network on its own. For a comparison use `paired`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.measure.measures import MEASURES, evaluating
from compress.measure.paired import paired_latency


@MEASURES.register("latency_ms", unit="ms")
def latency_ms(
    module: nn.Module, x_BCHW: Tensor, *, batch: int = 1, num_threads: int = 1, rounds: int = 30, warmup: int = 5
) -> float:
    """Median time of one forward pass in PyTorch, eager, in inference mode.

    Args:
        module: Any network.
        x_BCHW: Inputs; repeated or cut to `batch`.
        batch: Inputs in one pass.
        num_threads: CPU threads; the number set before is restored.
        rounds: Timed samples.
        warmup: Passes before the first sample.

    Returns:
        Milliseconds > 0 for the whole batch.

    Differs from the paper: no paper. To compare two networks use `paired_latency`: the machine's speed drifts.

    Cost: at least rounds + warmup + 1 forward passes, and 1 ms a round.

    Reference: compress.measure.paired.

    >>> latency_ms(nn.Linear(3, 2), torch.zeros(1, 3), rounds=2) > 0
    True
    """
    if batch < 1 or num_threads < 1:
        raise ValueError(f"latency_ms: batch={batch}, num_threads={num_threads}; use 1 or more of each.")
    x_BCHW = x_BCHW.repeat(-(-batch // len(x_BCHW)), *[1] * (x_BCHW.ndim - 1))[:batch]
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        with evaluating(module), torch.inference_mode():
            times = paired_latency({"module": lambda: module(x_BCHW)}, rounds=rounds, warmup=warmup)
    finally:
        torch.set_num_threads(before)
    return times.median_ms["module"]
