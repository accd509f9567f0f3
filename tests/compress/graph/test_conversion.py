"""Plans of conversions: replayed without weights, refused where they do not fit, cut afterwards."""

import json
import warnings

import pytest
import torch
from torch import nn

from compress.core.lineage import Lineage, Step, rebuild
from compress.core.model import Model
from compress.core.random import generator
from compress.graph.conversion import convert, convert_with, convolutions, fill_grouped, group_mask
from compress.graph.groups import NotPrunable, trace_groups
from compress.graph.surgery import cut, masked, plan_from_kept
from tests.compress.graph.networks import network, random_masks
from tests.toys import TOY_INPUT, toy_model

PLAN = {
    "kind": "convert",
    "layers": {
        "block.conv1": {"to": "grouped", "groups": 2, "in_order": [1, 0, 2, 3, 4, 5, 6, 7]},
        "block.conv2": {"to": "separable", "rank": 3},
        "conv2": {"to": "low_rank", "rank": 4},
        "conv1": {"to": "decoupled", "pairs": 2},
    },
}


def test_structure_by_hand():
    module = convert(toy_model().module, PLAN)
    shapes = {
        path: [tuple(part.weight.shape) for part in convolutions(module.get_submodule(path))] for path in PLAN["layers"]
    }
    assert shapes == {
        "block.conv1": [(8, 4, 3, 3)],
        "block.conv2": [(3, 8, 3, 1), (8, 3, 1, 3)],
        "conv2": [(4, 8, 3, 3), (16, 4, 1, 1)],
        "conv1": [(2, 1, 3, 3), (8, 2, 1, 1)],
    }
    assert [part.stride for part in convolutions(module.conv2)] == [(2, 2), (1, 1)]
    assert module(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_replayed_on_a_fresh_module_without_anything_else():
    model = toy_model()
    before, state = {k: v.clone() for k, v in model.module.state_dict().items()}, torch.get_rng_state()
    plan = json.loads(json.dumps(PLAN))
    first, second = convert(model.module, plan), convert(toy_model(5).module, plan)
    assert torch.equal(torch.get_rng_state(), state)
    assert {k: v.shape for k, v in first.state_dict().items()} == {k: v.shape for k, v in second.state_dict().items()}
    assert all(torch.equal(before[key], value) for key, value in model.module.state_dict().items())
    lineage = Lineage(builder={"name": "toy"}, shape=TOY_INPUT.shape, num_classes=3).then(
        Step(stage="prune", plan=plan)
    )
    rebuilt = rebuild(lineage)
    rebuilt.load_state_dict(first.state_dict())
    x_BCHW = TOY_INPUT.example()
    assert torch.equal(rebuilt.eval()(x_BCHW), first.eval()(x_BCHW))


def test_saved_and_loaded(tmp_path):
    model = toy_model()
    module = convert(model.module, PLAN)
    layers = {path: (target, module.get_submodule(path)) for path, target in PLAN["layers"].items()}
    new = convert_with(model, layers, stage="prune", config={"conversion": "grouped"})
    new.save(tmp_path)
    again = Model.load(tmp_path)
    assert torch.equal(again(TOY_INPUT.example()), new(TOY_INPUT.example()))
    assert [step.plan["kind"] for step in again.lineage.steps] == ["convert"]


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_grouped_layer_does_what_the_mask_says(has_bias):
    draw = generator(0, "grouped")
    dense = nn.Conv2d(6, 8, 3, padding=1, bias=has_bias)
    target = {
        "to": "grouped",
        "groups": 2,
        "in_order": torch.randperm(6, generator=draw).tolist(),
        "out_order": torch.randperm(8, generator=draw).tolist(),
    }
    module = convert(nn.Sequential(dense), {"kind": "convert", "layers": {"0": target}})
    fill_grouped(module[0], dense, target)
    x_BCHW = torch.randn(2, 6, 5, 5, generator=draw)
    with torch.no_grad():
        given = module(x_BCHW)
        dense.weight *= group_mask(dense, target)[:, :, None, None]
        assert torch.allclose(given, dense(x_BCHW), atol=1e-6)
    assert group_mask(dense, target).mean() == 0.5


def test_frozen_weights_and_modes_stay():
    module = toy_model().module.requires_grad_(False).eval()
    new = convert(module, PLAN)
    assert not any(parameter.requires_grad for parameter in new.parameters())
    assert not any(part.training for part in new.modules())


def test_low_rank_layers_can_be_cut_and_groups_stay_whole_with_a_warning():
    module, x_BCHW = network("resnet20")
    layers = {
        "layer1.0.conv1": {"to": "low_rank", "rank": 6},
        "layer1.1.conv2": {"to": "separable", "rank": 7},
        "layer2.1.conv1": {"to": "decoupled", "pairs": 1},
        "layer3.1.conv1": {"to": "grouped", "groups": 4, "in_order": list(range(63, -1, -1))},
        "layer3.2.conv2": {"to": "grouped", "groups": 2, "out_order": [*range(1, 64), 0]},
    }
    module = convert(module, {"kind": "convert", "layers": layers})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        groups = trace_groups(module, x_BCHW)
    whole = [str(warning.message) for warning in seen if issubclass(warning.category, NotPrunable)]
    assert {"layer1.0.conv1.0", "layer1.1.conv2.0"} <= {group.name for group in groups}
    names = {group.name for group in groups}
    for path in ("layer3.1.conv1.1", "layer3.2.conv2.0"):
        assert path in names or any(path in message for message in whole)
    for seed in range(3):
        kept = random_masks(groups, seed)
        with torch.no_grad():
            expected = masked(module, groups, kept)(x_BCHW)
            found = cut(module, plan_from_kept(groups, kept))(x_BCHW)
        assert torch.allclose(found, expected, atol=1e-4)


BAD = [
    ({"kind": "cut", "layers": {}}, "a plan of conversions has"),
    ({"kind": "convert"}, "a plan of conversions has"),
    (
        {"kind": "convert", "layers": {"nowhere": {"to": "low_rank", "rank": 1}}},
        "'nowhere', which this network has not",
    ),
    ({"kind": "convert", "layers": {"bn1": {"to": "low_rank", "rank": 1}}}, "'bn1', a BatchNorm2d"),
    ({"kind": "convert", "layers": {"": {"to": "low_rank", "rank": 1}}}, "'', a ToyNet"),
    (
        {"kind": "convert", "layers": {"conv2": {"to": "thin"}}},
        "converting conv2: a convolution becomes decoupled, grouped",
    ),
    ({"kind": "convert", "layers": {"conv2": {"to": "low_rank"}}}, r"low_rank takes \['rank'\]"),
    ({"kind": "convert", "layers": {"conv2": {"to": "low_rank", "rank": 2, "x": 1}}}, r"low_rank takes \['rank'\]"),
    ({"kind": "convert", "layers": {"conv2": {"to": "low_rank", "rank": 0}}}, "rank=0: at least 1"),
    ({"kind": "convert", "layers": {"conv2": {"to": "grouped", "groups": 3}}}, "cannot make 3 equal groups"),
    (
        {"kind": "convert", "layers": {"conv2": {"to": "grouped", "groups": 2, "in_order": [0, 0]}}},
        "in_order is no permutation of 8 channels",
    ),
]


@pytest.mark.parametrize(("plan", "message"), BAD, ids=[message for _, message in BAD])
def test_plans_that_do_not_fit(plan, message):
    with pytest.raises(ValueError, match=message):
        convert(toy_model().module, plan)


class Scaled(nn.Conv2d):
    """A convolution that does more than its weights say."""


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), Scaled(2, 2, 3)], ids=["reflect", "derived"]
)
def test_layers_that_would_lose_something_are_refused(layer):
    with pytest.raises(ValueError, match=r"converting 0: a .* only a plain one, padded with zeros"):
        convert(nn.Sequential(layer), {"kind": "convert", "layers": {"0": {"to": "low_rank", "rank": 1}}})


def test_padding_in_words_cannot_be_separated():
    module = nn.Sequential(nn.Conv2d(2, 2, 3, padding="same"))
    with pytest.raises(ValueError, match="padding='same'"):
        convert(module, {"kind": "convert", "layers": {"0": {"to": "separable", "rank": 1}}})
    grouped = convert(module, {"kind": "convert", "layers": {"0": {"to": "grouped", "groups": 2}}})
    assert grouped(torch.zeros(1, 2, 4, 4)).shape == (1, 2, 4, 4)
