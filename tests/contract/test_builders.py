"""What every builder of networks promises."""

import sys
import types

import pytest
import torch
from torch import nn

import compress.models  # noqa: F401
from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.core.task import InputSpec
from compress.models.borrowed import ALLOW_IMPORT

OPTIONS = {
    "resnet_cifar": {"depth": 8, "width": 4},
    "vgg_small": {"depth": 11, "width": 0.0625},
    "mobilenet_v2_small": {"width": 0.25},
    "torchvision": {"arch": "squeezenet1_1"},
    "timm": {"arch": "resnet10t"},
    "import_path": {"path": "nets_of_the_contract:net"},
}
SUFFIX = {"torchvision": "arch", "timm": "arch", "import_path": "path"}
#: SqueezeNet's poolings leave nothing of 16 pixels.
TOO_SMALL = {("torchvision", 16)}
NAMES = sorted(name for name in BUILDERS if BUILDERS[name].function.__module__.startswith("compress."))
INPUTS = [((1, 16, 16), 3), ((3, 32, 32), 10)]


def net(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))


@pytest.fixture(autouse=True)
def own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `import_path` find a network, and import it."""
    module = types.ModuleType("nets_of_the_contract")
    module.net = net
    monkeypatch.setitem(sys.modules, "nets_of_the_contract", module)
    monkeypatch.setenv(ALLOW_IMPORT, "1")


def built(name: str, shape: tuple[int, int, int], num_classes: int, seed: int = 0) -> Model:
    if name in ("torchvision", "timm"):
        pytest.importorskip(name)
    ones = (1.0,) * shape[0]
    spec = InputSpec(shape=shape, mean=ones, std=ones, class_names=tuple(map(str, range(num_classes))))
    return Model.build(BUILDERS.bind(name, **OPTIONS[name]), spec, seed=seed)


def test_every_builder_is_tried() -> None:
    assert set(NAMES) == set(OPTIONS)


@pytest.mark.parametrize(("shape", "num_classes"), INPUTS)
@pytest.mark.parametrize("name", NAMES)
class TestEveryBuilder:
    def test_gives_finite_logits_of_the_right_shape(self, name, shape, num_classes):
        if (name, shape[1]) in TOO_SMALL:
            with pytest.raises(ValueError, match=rf"cannot take \({shape[0]}, 16, 16\) inputs"):
                built(name, shape, num_classes)
            return
        model = built(name, shape, num_classes)
        logits_BC = model(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))
        assert logits_BC.shape == (3, num_classes)
        assert logits_BC.dtype == torch.float32
        assert logits_BC.isfinite().all()

    def test_the_seed_alone_decides_the_weights(self, name, shape, num_classes):
        if (name, shape[1]) in TOO_SMALL:
            return
        one, two, other = (built(name, shape, num_classes, seed).module.state_dict() for seed in (1, 1, 2))
        assert one.keys() == two.keys() == other.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert not all(torch.equal(one[key], other[key]) for key in one)

    def test_a_saved_model_comes_back(self, name, shape, num_classes, tmp_path):
        if (name, shape[1]) in TOO_SMALL:
            return
        model = built(name, shape, num_classes)
        model.save(tmp_path / "m")
        x_BCHW = model.input.example()
        assert torch.equal(Model.load(tmp_path / "m")(x_BCHW), model(x_BCHW))


def test_code_of_the_user_is_refused_unless_it_is_allowed(monkeypatch):
    monkeypatch.delenv(ALLOW_IMPORT)
    with pytest.raises(ValueError, match=f"set {ALLOW_IMPORT}=1"):
        built("import_path", (1, 16, 16), 3)


@pytest.mark.parametrize("name", NAMES)
def test_card_is_filled_in(name):
    for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert word in BUILDERS[name].function.__doc__
    assert BUILDERS[name].suffix == SUFFIX.get(name, "")
