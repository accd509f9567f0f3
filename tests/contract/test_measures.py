"""What every measure promises."""

from __future__ import annotations

import pytest
import torch

import compress.measure  # noqa: F401
from compress.measure.measures import MEASURES
from tests.toys import toy_model


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_every_measure_names_its_unit_and_leaves_the_module_alone(name: str) -> None:
    module = toy_model().module.train()
    module.bn1.eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    value = MEASURES.bind(name)(module, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert MEASURES[name].extra["unit"] in ("1", "byte", "ms")
    assert value > 0
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert [part.training for part in (module, module.bn1, module.bn2)] == [True, False, True]
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_a_measure_of_a_network_is_a_number_that_does_not_depend_on_the_values_of_the_input(name: str) -> None:
    module, x_BCHW = toy_model().module, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    value = MEASURES.bind(name)(module, x_BCHW)
    assert isinstance(value, int | float)
    if MEASURES[name].extra["unit"] != "ms":
        assert value == MEASURES.bind(name)(module, torch.zeros_like(x_BCHW)) == MEASURES.bind(name)(module, x_BCHW)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_card_is_filled_in(name: str) -> None:
    for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert word in MEASURES[name].function.__doc__
