"""Our multiply-adds against Torch-Pruning's independent count, on five networks.

Torch-Pruning counts more: one operation for each bias, two for each element of a batch norm, one for
each element of an activation or a pooling's input. On convolutions and linear layers, biases left
out, both counts are the same number.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import compress.models  # noqa: F401
from compress.core.lineage import BUILDERS
from compress.measure.measures import macs, params

NETWORKS = {
    "resnet_cifar": ({"depth": 56}, 32, 125_485_696),
    "vgg_small": ({"depth": 16}, 32, 313_201_664),
    "mobilenet_v2_small": ({}, 32, None),
    "torchvision:resnet18": ({}, 64, None),
    "torchvision:densenet121": ({}, 64, None),
}


@pytest.fixture(scope="module")
def count() -> Callable[..., tuple[float, float, dict[nn.Module, float], dict[nn.Module, float]]]:
    pytest.importorskip("torchvision")
    from torch_pruning.utils import count_ops_and_params

    return count_ops_and_params


def _bias_operations(module: nn.Module, x_BCHW: torch.Tensor) -> int:
    """Return one for each output element of the layers that add a bias."""
    found = []
    layers = [part for part in module.modules() if getattr(part, "bias", None) is not None]
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output: found.append(output.numel()))
        for layer in layers
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        module(x_BCHW)
    for hook in hooks:
        hook.remove()
    return sum(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_torch_pruning(name: str, count) -> None:
    options, side, known = NETWORKS[name]
    module = BUILDERS.bind(name, **options)((3, side, side), 10).eval()
    x_BCHW = torch.zeros(1, 3, side, side)
    total, num_params, layer_ops, _ = count(module, x_BCHW, layer_wise=True)
    weighted = sum(ops for part, ops in layer_ops.items() if isinstance(part, nn.Conv2d | nn.Linear))
    ours = macs(module, x_BCHW)
    assert ours == weighted - _bias_operations(module, x_BCHW)
    assert known in (None, ours)
    assert params(module, x_BCHW) == num_params
    others = sum(
        ops
        for part, ops in layer_ops.items()
        if not isinstance(part, nn.Conv2d | nn.Linear) and not list(part.children()) and ops
    )
    assert total == weighted + others, "the rest is batch norms, activations and poolings"
    assert ours < total < 1.25 * ours
