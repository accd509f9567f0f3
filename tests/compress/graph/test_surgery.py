"""Cutting: masked equals cut, rebuilt equals saved, nothing happens in place, bad plans are refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.core.model import Model
from compress.graph.groups import find_blocks, trace_groups
from compress.graph.slicers import axis_size, is_depthwise, slicer_of, zero
from compress.graph.surgery import apply, changes_nothing, check_plan, cut, masked, plan_from_kept
from tests.compress.graph.networks import SMALL, TORCHVISION, network, random_masks
from tests.toys import toy_model

RELOAD = """
import sys, torch
from pathlib import Path
import compress.graph.surgery, tests.toys
from compress.core.model import Model
from safetensors.torch import save_file
model = Model.load(Path(sys.argv[1]))
save_file({"y": model(model.input.example())}, Path(sys.argv[1]) / "y.safetensors")
assert "torch_pruning" not in sys.modules
"""


def check_equivalence(name: str, num_trials: int) -> None:
    module, x_BCHW = network(name)
    groups = trace_groups(module, x_BCHW, is_verified=False)
    blocks = [block.name for block in find_blocks(module)]
    for trial in range(num_trials):
        kept, dropped = random_masks(groups, trial), blocks[: trial * 2 : 2]
        plan = json.loads(json.dumps(plan_from_kept(groups, kept, dropped)))
        with torch.no_grad():
            expected = masked(module, groups, kept, dropped)(x_BCHW)
            found = cut(module, plan)(x_BCHW)
            whole = module(x_BCHW)
        assert found.shape == whole.shape
        assert (found - expected).abs().max() <= 1e-5 * max(1, float(whole.abs().max()))
        assert not torch.allclose(found, whole)


@pytest.mark.parametrize("name", SMALL)
def test_masked_equals_cut(name: str) -> None:
    check_equivalence(name, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_masked_equals_cut_torchvision(name: str) -> None:
    check_equivalence(name, 2)


def test_cuts_can_follow_each_other() -> None:
    module, x_BCHW = network("resnet20")
    for seed in range(3):
        groups = trace_groups(module, x_BCHW, is_verified=False)
        kept = random_masks(groups, seed)
        smaller = cut(module, plan_from_kept(groups, kept))
        with torch.no_grad():
            assert torch.allclose(smaller(x_BCHW), masked(module, groups, kept)(x_BCHW), atol=1e-5)
        module = smaller


def test_rebuilt_equals_saved_in_another_process(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = toy_model()
    for seed, dropped in ((0, []), (1, ["block"])):
        groups = trace_groups(model.module, model.input.example())
        model = apply(model, plan_from_kept(groups, random_masks(groups, seed), dropped), stage="prune", config={})
    model.save(tmp_path)
    subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path)], check=True)
    assert torch.equal(load_file(tmp_path / "y.safetensors")["y"], model(model.input.example()))
    assert torch.equal(Model.load(tmp_path)(model.input.example()), model(model.input.example()))
    assert [step.plan["kind"] for step in model.lineage.steps if step.plan] == ["cut", "cut"]


def test_plan_by_hand_is_minimal_and_nothing_happens_in_place() -> None:
    model = toy_model()
    groups = trace_groups(model.module, model.input.example())
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    kept = {"conv2": torch.arange(16) % 8 == 0, "conv1": torch.ones(8, dtype=torch.bool)}
    plan = plan_from_kept(groups, kept)
    layers = {"conv2": {"out": [0, 8]}, "bn2": {"out": [0, 8]}, "linear": {"in": [0, 8]}}
    assert plan == {"kind": "cut", "dropped": [], "layers": layers}
    smaller = cut(model.module, plan)
    assert torch.equal(smaller.conv2.weight, before["conv2.weight"][[0, 8]])
    assert torch.equal(smaller.linear.weight, before["linear.weight"][:, [0, 8]])
    assert torch.equal(smaller.bn2.running_var, before["bn2.running_var"][[0, 8]])
    assert smaller.bn2.num_features == smaller.linear.in_features == 2
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())
    assert changes_nothing(plan_from_kept(groups, {}))
    assert not changes_nothing(plan)


def test_what_lies_in_a_dropped_block_is_not_in_the_plan() -> None:
    model = toy_model()
    groups = trace_groups(model.module, model.input.example())
    plan = plan_from_kept(groups, {"conv1": torch.arange(8) < 4, "block.conv1": torch.arange(8) < 2}, ["block"])
    assert set(plan["layers"]) == {"conv1", "bn1", "conv2"}
    assert isinstance(cut(model.module, plan).block, nn.Identity)


def test_frozen_weights_stay_frozen() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).requires_grad_(False)
    smaller = cut(module, {"kind": "cut", "dropped": [], "layers": {"0": {"out": [1]}, "1": {"in": [1]}}})
    assert not any(p.requires_grad for p in smaller.parameters())
    assert [(layer.in_features, layer.out_features) for layer in smaller] == [(2, 1), (1, 2)]


BAD = [
    ({"kind": "fold", "dropped": [], "layers": {}}, "a cut plan has"),
    ({"kind": "cut", "dropped": ["nowhere"], "layers": {}}, "'nowhere', which this network has not"),
    ({"kind": "cut", "dropped": [], "layers": {"block": {"out": [0]}}}, "no slicer is registered"),
    ({"kind": "cut", "dropped": ["block"], "layers": {"block.conv1": {"out": [0]}}}, "inside a block that it drops"),
    ({"kind": "cut", "dropped": [], "layers": {"conv1": {"side": [0]}}}, "knows the axes"),
    ({"kind": "cut", "dropped": [], "layers": {"conv1": {"out": []}}}, "keeps nothing"),
    ({"kind": "cut", "dropped": [], "layers": {"conv1": {"out": [1, 0]}}}, "must ascend"),
    ({"kind": "cut", "dropped": [], "layers": {"conv1": {"out": [0, 0]}}}, "must ascend"),
    ({"kind": "cut", "dropped": [], "layers": {"conv1": {"out": [0, 8]}}}, "leave the axis of 8 channels"),
    ({"kind": "cut", "dropped": [], "layers": {"conv1": {"out": [-1, 0]}}}, "leave the axis"),
    ({"kind": "cut", "dropped": [], "layers": {"bn1": {"in": [0]}}}, "no 'in' axis"),
]


@pytest.mark.parametrize(("plan", "message"), BAD)
def test_bad_plans_are_refused(plan: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_plan(toy_model().module, plan)


def plan_for(**axes: list[int]) -> dict:
    return {"kind": "cut", "dropped": [], "layers": {"0": {name.strip("_"): kept for name, kept in axes.items()}}}


@pytest.mark.parametrize(
    ("layer", "axes", "message"),
    [
        (nn.Conv2d(4, 4, 1, groups=4), {"in_": [0], "out": [0]}, "depthwise"),
        (nn.Conv2d(4, 4, 1, groups=2), {"out": [0]}, "2 groups"),
        (nn.LayerNorm((3, 4)), {"out": [0]}, "one over channels can"),
    ],
)
def test_layers_that_cannot_be_cut_so_say_where(layer: nn.Module, axes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"cutting 0: .*{message}"):
        cut(nn.Sequential(layer), plan_for(**axes))


def test_every_type_of_layer() -> None:
    x_BCHW = torch.randn(2, 4, 5, 5)
    for layer in (nn.BatchNorm2d(4), nn.InstanceNorm2d(4, affine=True), nn.PReLU(4), nn.Conv2d(4, 4, 3, groups=4)):
        smaller = cut(nn.Sequential(layer.eval()), plan_for(out=[0, 3])).eval()
        assert torch.allclose(smaller(x_BCHW[:, [0, 3]]), layer(x_BCHW)[:, [0, 3]])
        assert axis_size(smaller[0], "out") == 2
    up = nn.ConvTranspose2d(4, 3, 2)
    smaller = cut(nn.Sequential(up), plan_for(out=[1], in_=[0, 1, 2, 3]))
    assert torch.allclose(smaller(x_BCHW), up(x_BCHW)[:, [1]], atol=1e-6)
    assert is_depthwise(nn.Conv2d(4, 4, 1, groups=4))
    assert not is_depthwise(nn.Conv2d(4, 8, 1, groups=4))
    assert slicer_of(nn.ReLU()) is None
    norm = cut(nn.Sequential(nn.LayerNorm(4)), plan_for(out=[1, 2]))[0]
    assert norm.normalized_shape == (2,)
    for whole in (nn.PReLU(4), nn.BatchNorm2d(4), nn.LayerNorm(4)):
        with pytest.raises(ValueError, match="does not mix channels"):
            slicer_of(whole)(whole, None, [0])


def test_zero_leaves_layers_without_weights_alone() -> None:
    zero(nn.BatchNorm2d(3, affine=False), "out", torch.tensor([0]))


def test_each_group_of_a_convolution_keeps_its_own() -> None:
    x_BCHW, layer = torch.randn(2, 8, 5, 5), nn.Conv2d(8, 6, 3, groups=2)
    smaller = cut(nn.Sequential(layer), plan_for(in_=[0, 3, 5, 6], out=[1, 2, 3, 5]))[0]
    assert (smaller.in_channels, smaller.out_channels, smaller.groups) == (4, 4, 2)
    with torch.no_grad():
        zeroed = x_BCHW.clone()
        zeroed[:, [1, 2, 4, 7]] = 0
        assert torch.allclose(smaller(x_BCHW[:, [0, 3, 5, 6]]), layer(zeroed)[:, [1, 2, 3, 5]], atol=1e-6)
        zero(layer, "in", torch.tensor([1, 2, 4, 7]))
        assert torch.allclose(smaller(x_BCHW[:, [0, 3, 5, 6]]), layer(x_BCHW)[:, [1, 2, 3, 5]], atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.LayerNorm(6), torch.randn(2, 3, 6)),
        (nn.GroupNorm(2, 6), torch.randn(2, 6, 4, 4)),
        (nn.LayerNorm(6, elementwise_affine=False), torch.randn(2, 3, 6)),
    ],
)
def test_a_masked_norm_leaves_channels_out_of_its_statistics(layer: nn.Module, x: torch.Tensor) -> None:
    kept, dim = [0, 1, 4, 5], -1 if isinstance(layer, nn.LayerNorm) else 1
    smaller = cut(nn.Sequential(layer), plan_for(out=kept))
    zero(layer, "out", torch.tensor([2, 3]))
    with torch.no_grad():
        assert torch.equal(
            layer(x).index_select(dim, torch.tensor(kept)), smaller(x.index_select(dim, torch.tensor(kept)))
        )
        assert not layer(x).index_select(dim, torch.tensor([2, 3])).any()


def test_a_parameter_is_cut_along_one_dimension() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.arange(6.0).view(1, 3, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    plan = {"kind": "cut", "dropped": [], "layers": {"": {"scale.1": [0, 2]}}}
    smaller = cut(Scaled().requires_grad_(False), plan)
    assert smaller.scale.tolist() == [[[0.0, 1.0], [4.0, 5.0]]]
    assert not smaller.scale.requires_grad
    for axis in ("scale.3", "other.0"):
        with pytest.raises(ValueError, match="has no parameter"):
            check_plan(Scaled(), {"kind": "cut", "dropped": [], "layers": {"": {axis: [0]}}})
