"""Measures against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import compress.measure
from compress.core.budget import Cost
from compress.measure.latency import latency_ms
from compress.measure.measures import MEASURES, evaluating, macs, params, size_bytes
from compress.measure.memory import peak_memory_bytes
from tests.toys import toy_model


def test_known_names() -> None:
    assert set(MEASURES) == {"params", "macs", "size_bytes", "peak_memory_bytes", "latency_ms"}
    assert all(hasattr(compress.measure, name) for name in compress.measure.__all__)


def test_modes_come_back_after_an_error() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    with evaluating(module):
        assert not module[0].training
        assert not torch.is_grad_enabled()
    with pytest.raises(KeyError), evaluating(module):
        raise KeyError
    assert module.training
    assert module[0].training
    assert torch.is_grad_enabled()


def test_params_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(5, 3))
    assert params(module, torch.zeros(1)) == (4 * 2 * 9 + 4) + (4 + 4) + (15 + 3)


def test_shared_parameters_count_once() -> None:
    linear = nn.Linear(3, 3)
    assert params(nn.Sequential(linear, linear), torch.zeros(1)) == 12


def test_macs_of_a_network_by_hand() -> None:
    block = 2 * 8 * 8 * 9 * 64
    expected = 8 * 1 * 9 * 64 + block + 16 * 8 * 9 * 16 + 16 * 3
    assert macs(toy_model().module, torch.zeros(3, 1, 8, 8)) == expected == 96_816


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(4, 8, 3, padding=1, groups=2), (4, 5, 5), 8 * 25 * 2 * 9),
        (nn.Conv2d(4, 4, 3, groups=4, stride=2), (4, 7, 7), 4 * 9 * 9),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 4, 4), 2 * 16 * 3 * 4),
        (nn.Linear(7, 5), (7,), 35),
        (nn.Linear(7, 5), (3, 7), 105),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (3, 4, 4), 0),
    ],
)
def test_macs_of_layers_by_hand(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    for batch in (1, 4):
        assert macs(layer, torch.zeros(batch, *shape)) == expected


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x_BTC: Tensor) -> Tensor:
        y_BTC: Tensor = self.attention(x_BTC, x_BTC, x_BTC, need_weights=False)[0]
        return y_BTC


def test_macs_of_attention_by_hand() -> None:
    projections, products = 4 * 5 * 8 * 8, 2 * 5 * 5 * 8
    assert macs(_Attention(), torch.zeros(2, 5, 8)) == projections + products
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_size_is_that_of_the_saved_file(tmp_path) -> None:
    model = toy_model()
    model.save(tmp_path)
    expected = (tmp_path / "weights.safetensors").stat().st_size
    assert size_bytes(model.module, model.input.example(1)) == expected


def test_size_of_shared_and_strided_weights(tmp_path) -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    module[0].weight.data = module[0].weight.data.t()
    save_file({key: value.contiguous().clone() for key, value in module.state_dict().items()}, tmp_path / "w")
    assert size_bytes(module, torch.zeros(1)) == (tmp_path / "w").stat().st_size


def test_peak_memory_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    weights, first, second = 36, 64 + 256, 256 + 256
    assert peak_memory_bytes(module, torch.zeros(7, 1, 8, 8)) == 4 * (weights + max(first, second))


def test_peak_memory_counts_shared_memory_once() -> None:
    in_place = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(inplace=True))
    assert peak_memory_bytes(in_place, torch.zeros(1, 1, 8, 8)) == 4 * (4 + 64 + 256)


def test_peak_memory_sees_inside_tuples_and_dictionaries() -> None:
    class Two(nn.Module):
        def forward(self, x_BC: Tensor) -> dict[str, object]:
            return {"a": [x_BC + 1, (x_BC + 2,)], "b": "text"}

    assert peak_memory_bytes(Two(), torch.zeros(1, 4)) == 4 * (4 + 4 + 4)


def test_latency_grows_with_the_work() -> None:
    class Wait(nn.Module):
        def forward(self, x_BC: Tensor) -> Tensor:
            import time

            assert torch.is_inference_mode_enabled()
            time.sleep(0.002 * len(x_BC))
            return x_BC

    one, four = (latency_ms(Wait(), torch.zeros(3, 2), batch=batch, rounds=3, warmup=0) for batch in (1, 4))
    assert 2 <= one < four
    assert four >= 8


def test_latency_restores_the_threads() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    class Note(nn.Module):
        def forward(self, x_BC: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return x_BC

    latency_ms(Note(), torch.zeros(1, 2), num_threads=2, rounds=1, warmup=0)
    assert set(seen) == {2}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("options", [{"batch": 0}, {"num_threads": 0}])
def test_latency_refuses(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="use 1 or more"):
        latency_ms(nn.Identity(), torch.zeros(1, 2), **options)


def test_cost_of_a_model() -> None:
    model = toy_model()
    x_BCHW = model.input.example(1)
    cost = compress.measure.cost_of(model)
    assert cost == Cost(
        params=params(model.module, x_BCHW),
        macs=macs(model.module, x_BCHW),
        size_bytes=size_bytes(model.module, x_BCHW),
    )
    assert cost.as_json().keys() == {"params", "macs", "size_bytes"}
