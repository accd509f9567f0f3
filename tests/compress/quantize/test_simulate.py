import pytest
import torch

from compress.quantize.simulate import robustness, rounded, with_rounded_weights
from compress.train.checkpoint import state_digest
from tests.toys import toy_model, toy_task


def test_levels_by_hand():
    values = torch.tensor([-1.0, -0.6, 0.0, 0.9, 2.0])
    assert rounded(values, 2).tolist() == [-1.0, -1.0, 0.0, 1.0, 2.0]
    assert rounded(values, 1).tolist() == [0.0, 0.0, 0.0, 0.0, 3.0]


def test_one_sided_ranges_contain_zero():
    assert rounded(torch.tensor([1.0, 3.0]), 2).tolist() == [1.0, 3.0]
    assert rounded(torch.tensor([-3.0, -1.4]), 2).tolist() == [-3.0, -1.0]


def test_all_zeros_stay():
    assert rounded(torch.zeros(3), 4).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_error_is_at_most_half_a_step_and_levels_are_few(bits):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    step = (values.max() - values.min()) / (2**bits - 1)
    found = rounded(values, bits)
    assert float((found - values).abs().max()) <= float(step) * 1.0001
    assert len(found.unique()) <= 2**bits
    assert torch.equal(rounded(found, bits), found) or bits == 8


def test_the_network_itself_stays():
    module = toy_model().module
    before = state_digest(module)
    copy = with_rounded_weights(module, 2)
    assert state_digest(module) == before
    assert len(copy.conv2.weight.unique()) <= 4


def test_robustness_by_bit_width():
    found = robustness(toy_model().module, toy_task(), bits=(8, 2), limit=20)
    assert list(found) == [8, 2]
    assert all(0 <= value <= 1 for value in found.values())
