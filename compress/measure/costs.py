"""From a model to its Cost: the counts that every stage reports."""

from __future__ import annotations

from compress.core.budget import Cost
from compress.core.model import Model
from compress.measure.measures import macs, params, size_bytes


def cost_of(model: Model) -> Cost:
    """Return what can be counted without a clock: params, macs for one input, size_bytes of the weights."""
    x_BCHW = model.input.example(1)
    module = model.module
    return Cost(params=params(module, x_BCHW), macs=macs(module, x_BCHW), size_bytes=size_bytes(module, x_BCHW))
