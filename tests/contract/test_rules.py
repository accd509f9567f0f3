"""What every rule of the gate promises."""

import pytest
import torch

from compress.core.random import generator
from compress.measure.significance import RULES


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule(name):
    rule = RULES.bind(name)
    reference = (torch.rand(300, generator=generator(0, "a")) > 0.1).float()
    candidate = (torch.rand(300, generator=generator(0, "b")) > 0.2).float()
    drop = rule(reference, candidate)
    assert drop == rule(reference, candidate)
    assert -1 <= drop.low <= drop.point <= drop.high <= 1
    worse = candidate.clone()
    worse[:20] = 0
    assert rule(reference, worse).judged > drop.judged
    for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert word in RULES[name].function.__doc__
