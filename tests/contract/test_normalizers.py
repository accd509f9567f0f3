"""What every normalizer promises."""

import pytest
import torch

from compress.core.random import generator
from compress.prune.normalizers import NORMALIZERS

INPUTS = {
    "random": torch.rand(9, generator=generator(0, "scores")),
    "large": 1e6 * torch.rand(5, generator=generator(1, "scores")),
    "zero": torch.zeros(4),
    "one": torch.tensor([2.0]),
    "equal": torch.full((3,), 0.25),
}


@pytest.mark.parametrize("name", sorted(NORMALIZERS))
@pytest.mark.parametrize("kind", INPUTS)
class TestEveryNormalizer:
    def test_shape_range_and_no_writing(self, name, kind):
        before = INPUTS[kind].clone()
        found_C = NORMALIZERS.bind(name)(INPUTS[kind])
        assert torch.equal(INPUTS[kind], before)
        assert found_C.shape == before.shape
        assert found_C.isfinite().all()
        assert (found_C >= 0).all()
        found_C.add_(1)
        assert torch.equal(INPUTS[kind], before)

    def test_order_within_a_group_stays(self, name, kind):
        scores_C = INPUTS[kind]
        assert torch.equal(NORMALIZERS.bind(name)(scores_C).argsort(stable=True), scores_C.argsort(stable=True))

    def test_scores_follow_their_channels(self, name, kind):
        scores_C = INPUTS[kind]
        order = torch.randperm(len(scores_C), generator=generator(2, "order"))
        assert torch.allclose(NORMALIZERS.bind(name)(scores_C)[order], NORMALIZERS.bind(name)(scores_C[order]))


@pytest.mark.parametrize("name", sorted(NORMALIZERS))
def test_card_is_filled_in(name):
    for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert word in NORMALIZERS[name].function.__doc__
