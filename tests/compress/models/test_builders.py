"""Builders: structure, shapes, options and what they refuse."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

import compress.models  # noqa: F401
from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.core.registry import UnknownName
from compress.core.task import InputSpec
from compress.measure.measures import macs, params
from compress.models.mobilenet_v2_small import InvertedBlock, _divisible
from compress.models.resnet_cifar import BasicBlock

OWN = ("resnet_cifar", "vgg_small", "mobilenet_v2_small")
SMALL = {
    "resnet_cifar": {"depth": 8, "width": 4},
    "vgg_small": {"depth": 11, "width": 0.0625},
    "mobilenet_v2_small": {"width": 0.25},
}


def _spec(shape: tuple[int, int, int], num_classes: int) -> InputSpec:
    ones = (1.0,) * shape[0]
    return InputSpec(shape=shape, mean=ones, std=ones, class_names=tuple(map(str, range(num_classes))))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 16, 16), (1, 28, 28), (3, 32, 32), (2, 24, 17)])
@pytest.mark.parametrize("name", OWN)
def test_takes_small_pictures(name: str, shape: tuple[int, int, int]) -> None:
    module = BUILDERS.bind(name, **SMALL[name])(shape, 7).eval()
    x_BCHW = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits_BC = module(x_BCHW)
    assert logits_BC.shape == (3, 7)
    assert logits_BC.isfinite().all()
    assert logits_BC.std(0).min() > 0, "every output depends on the input"


@pytest.mark.parametrize("name", OWN)
def test_a_saved_model_comes_back(name: str, tmp_path) -> None:
    model = Model.build(BUILDERS.bind(name, **SMALL[name]), _spec((1, 16, 16), 5), seed=3)
    model.save(tmp_path / "m")
    x_BCHW = model.input.example()
    assert torch.equal(Model.load(tmp_path / "m")(x_BCHW), model(x_BCHW))


@pytest.mark.parametrize("name", OWN)
def test_same_seed_same_weights(name: str) -> None:
    piece, spec = BUILDERS.bind(name, **SMALL[name]), _spec((1, 16, 16), 5)
    first, second, other = (Model.build(piece, spec, seed=seed).module.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def _resnet_macs(num_blocks: int, width: int) -> int:
    """Stem; 2 n equal convolutions a stage, but the first of stages 2 and 3 has half the inputs; classifier."""
    stem = 27 * width * 1024
    one = 9 * width * width * 1024 * 2 * num_blocks
    others = 2 * (9 * width * width * 1024 * (2 * num_blocks - 1) + 9 * width * width * 1024 // 2)
    return stem + one + others + 4 * width * 10


@pytest.mark.parametrize(
    ("depth", "num_params", "num_macs"),
    [(20, 269_722, 40_551_040), (32, 464_154, 68_862_592), (56, 853_018, 125_485_696), (110, 1_727_962, 252_887_680)],
)
def test_resnet_counts(depth: int, num_params: int, num_macs: int) -> None:
    module = BUILDERS.bind("resnet_cifar", depth=depth)((3, 32, 32), 10)
    assert params(module, torch.zeros(1)) == num_params
    assert _resnet_macs((depth - 2) // 6, 16) == num_macs
    if depth <= 56:
        assert macs(module, torch.zeros(1, 3, 32, 32)) == num_macs


def test_resnet_droppable_blocks() -> None:
    module = BUILDERS.bind("resnet_cifar", depth=20)((3, 32, 32), 10)
    fixed = [path for path, part in module.named_modules() if isinstance(part, BasicBlock) and not part.is_droppable]
    assert fixed == ["layer2.0", "layer3.0"]


@pytest.mark.parametrize("options", [{"depth": 21}, {"depth": 2}, {"width": 0}])
def test_resnet_refuses(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="resnet_cifar"):
        BUILDERS.bind("resnet_cifar", **options)((3, 32, 32), 10)


def test_vgg_counts() -> None:
    module = BUILDERS.bind("vgg_small", depth=16)((3, 32, 32), 10)
    assert params(module, torch.zeros(1)) == 14_728_266 - 4_224, "the usual count less the biases before batch norm"
    assert macs(module, torch.zeros(1, 3, 32, 32)) == 313_201_664


@pytest.mark.parametrize(("depth", "num_layers"), [(11, 8), (13, 10), (16, 13), (19, 16)])
def test_vgg_depths(depth: int, num_layers: int) -> None:
    module = BUILDERS.bind("vgg_small", depth=depth, width=0.05)((1, 16, 16), 10)
    assert sum(isinstance(part, nn.Conv2d) for part in module.modules()) == num_layers


@pytest.mark.parametrize(("side", "num_pools"), [(8, 2), (16, 3), (28, 3), (32, 4), (64, 5)])
def test_vgg_leaves_out_poolings_on_small_pictures(side: int, num_pools: int) -> None:
    module = BUILDERS.bind("vgg_small", depth=11, width=0.05)((1, side, side), 10)
    assert sum(isinstance(part, nn.MaxPool2d) for part in module.modules()) == num_pools


@pytest.mark.parametrize("options", [{"depth": 12}, {"width": 0.0}])
def test_vgg_refuses(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="vgg_small"):
        BUILDERS.bind("vgg_small", **options)((3, 32, 32), 10)


def test_mobilenet_blocks() -> None:
    module = BUILDERS.bind("mobilenet_v2_small", width=1.0)((1, 16, 16), 10)
    blocks = [part for part in module.modules() if isinstance(part, InvertedBlock)]
    assert len(blocks) == 17
    assert sum(block.is_droppable for block in blocks) == 1 + 2 + 3 + 2 + 2


def test_mobilenet_channels_are_multiples_of_eight() -> None:
    assert [_divisible(value) for value in (4, 12, 16, 19.2, 33.6, 11)] == [8, 16, 16, 24, 32, 16]


def test_mobilenet_refuses() -> None:
    with pytest.raises(ValueError, match="width"):
        BUILDERS.bind("mobilenet_v2_small", width=-1.0)((3, 32, 32), 10)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("torchvision:resnet18", (1, 32, 32)),
        ("torchvision:mobilenet_v2", (3, 32, 32)),
        ("torchvision:vit_b_32", (3, 64, 64)),
        ("timm:resnet10t", (2, 32, 32)),
        ("timm:vit_tiny_patch16_224", (1, 32, 32)),
    ],
)
def test_borrowed_networks_fit(name: str, shape: tuple[int, int, int]) -> None:
    pytest.importorskip(name.partition(":")[0])
    module = BUILDERS.bind(name)(shape, 6).eval()
    with torch.no_grad():
        assert module(torch.zeros(2, *shape)).shape == (2, 6)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["googlenet", "maxvit_t"])
def test_torchvision_networks_with_special_arguments(arch: str) -> None:
    pytest.importorskip("torchvision")
    side = 224 if arch == "maxvit_t" else 64
    module = BUILDERS.bind("torchvision", arch=arch)((3, side, side), 4)
    assert isinstance(module(torch.zeros(2, 3, side, side)), torch.Tensor), "one output, in training too"


def test_one_piece_and_its_long_form_are_the_same() -> None:
    short, long = BUILDERS.bind("torchvision:vgg11_bn"), BUILDERS.bind("torchvision", arch="vgg11_bn")
    assert short.as_json() == long.as_json() == {"name": "torchvision", "arch": "vgg11_bn"}


@pytest.mark.parametrize(("name", "near"), [("torchvision:resnet19", "resnet18"), ("timm:resnet10", "resnet10t")])
def test_misspelt_networks_get_the_nearest_name(name: str, near: str) -> None:
    pytest.importorskip(name.partition(":")[0])
    with pytest.raises(UnknownName, match=r"Did you mean 'resnet") as caught:
        BUILDERS.bind(name)((3, 32, 32), 10)
    assert near in str(caught.value)


def test_timm_hub_addresses_are_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(UnknownName):
        BUILDERS.bind("timm", arch="hf-hub:someone/resnet18")((3, 32, 32), 10)


def test_inputs_that_are_too_small_say_so() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match=r"alexnet cannot take \(3, 8, 8\) inputs"):
        BUILDERS.bind("torchvision:alexnet")((3, 8, 8), 10)


def test_a_network_without_a_first_convolution_of_three_channels_says_so() -> None:
    from compress.models.borrowed import _replace_first_convolution

    for odd in (nn.Linear(3, 3), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 3, 1, groups=3)):
        with pytest.raises(ValueError, match="does not start with a plain convolution"):
            _replace_first_convolution(nn.Sequential(odd), 1, "odd")


def test_a_missing_package_names_the_extra() -> None:
    from compress.models.borrowed import _package

    with pytest.raises(ValueError, match=r"secateur\[vision\]"):
        _package("no_such_package_here", "nothing")


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("own_nets")
    module.net = lambda shape, num_classes: nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], num_classes))
    module.wrong = lambda shape, num_classes: nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], 99))
    module.text = lambda shape, num_classes: "net"
    monkeypatch.setitem(sys.modules, "own_nets", module)
    return module


def test_own_networks_are_refused_without_the_setting(own_module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_ALLOW_IMPORT", raising=False)
    with pytest.raises(ValueError, match="set SECATEUR_ALLOW_IMPORT=1"):
        BUILDERS.bind("import_path:own_nets:net")((1, 8, 8), 3)


def test_own_networks_when_allowed(own_module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_ALLOW_IMPORT", "1")
    assert BUILDERS.bind("import_path:own_nets:net")((1, 8, 8), 3)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_nets", "write package.module:function"),
        ("own_nets:nothing", "cannot be imported"),
        ("no_such_module_here:net", "cannot be imported"),
        ("own_nets:text", "returned a str"),
        ("own_nets:wrong", r"expected \(1, 3\)"),
    ],
)
def test_own_networks_that_do_not_work(own_module, monkeypatch: pytest.MonkeyPatch, path: str, message: str) -> None:
    monkeypatch.setenv("SECATEUR_ALLOW_IMPORT", "1")
    with pytest.raises(ValueError, match=message):
        BUILDERS.bind("import_path", path=path)((1, 8, 8), 3)


def test_import_errors_in_own_code_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_ALLOW_IMPORT", "1")
    with pytest.raises(ValueError, match="check PYTHONPATH"):
        BUILDERS.bind("import_path", path="no_such.module:net")((1, 8, 8), 3)
