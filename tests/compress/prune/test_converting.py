"""A network offered to conversions: what changes, what is refused, and that nothing breaks on the way."""

import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from compress.core.journal import Journal
from compress.core.lineage import BUILDERS, Step, rebuild
from compress.core.model import Model
from compress.core.task import InputSpec
from compress.graph.conversion import convolutions
from compress.graph.groups import trace_groups
from compress.graph.surgery import apply, plan_from_kept
from compress.measure import cost_of
from compress.measure.paired import Ratio
from compress.measure.runtimes import RUNTIMES
from compress.prune.conversions import CONVERSIONS
from compress.prune.conversions.sites import quiet_groups, shape_classes
from compress.prune.converting import Referee, convert
from compress.train.fit import FitConfig, fit
from tests.compress.graph.networks import network, random_masks
from tests.toys import TOY_INPUT, toy_model, toy_task

SPEC = InputSpec(shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3, class_names=tuple("abcdefghij"))
PIECES = {
    "grouped": {"groups": 4},
    "depthwise": {},
    "low_rank": {"energy": 0.6},
    "separable": {"energy": 0.6},
    "decoupled": {"pairs": 1},
}


def resnet20():
    """Return ResNet-20 with random weights and batch statistics."""
    plain = Model.build(BUILDERS.bind("resnet_cifar", depth=20), SPEC, seed=0)
    plain.module.load_state_dict(network("resnet20")[0].state_dict())
    return plain


@dataclass(frozen=True)
class Slow(Referee):
    """Finds that a network takes `factor` times as long once a layer is converted."""

    factor: float = 1.2

    def ratio(self, numerator, denominator):
        is_new = sum(isinstance(part, nn.Conv2d) for part in numerator.module.modules()) > 19
        value = self.factor if is_new else 1 / self.factor
        return Ratio(value, value - 0.1, value + 0.1)


def slow(factor=1.2):
    return Slow(RUNTIMES.bind("torch"), factor=factor)


@pytest.mark.parametrize("name", sorted(PIECES))
def test_rebuilt_equals_saved_and_onnx_agrees(name, tmp_path):
    from deploy.export.onnx_from_model import onnx_from_model

    model, x_BCHW = resnet20(), SPEC.example()
    before = model(x_BCHW)
    new, report = convert(model, CONVERSIONS.bind(name, **PIECES[name]), referee=None)
    assert torch.equal(model(x_BCHW), before)
    assert report["num_converted"] >= 15
    assert report["speedup"] is None
    assert cost_of(new).macs < 0.8 * cost_of(model).macs
    assert json.loads(json.dumps(report)) == report
    new.save(tmp_path)
    again = Model.load(tmp_path)
    assert torch.equal(again(x_BCHW), new(x_BCHW))
    fresh = rebuild(again.lineage)
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {
        k: v.shape for k, v in new.module.state_dict().items()
    }
    assert onnx_from_model(new, tmp_path / "model.onnx").parity_max_abs <= 1e-4 * max(1, float(new(x_BCHW).abs().max()))


@pytest.mark.parametrize("name", sorted(PIECES))
def test_a_converted_network_can_be_cut(name, tmp_path):
    new, _ = convert(resnet20(), CONVERSIONS.bind(name, **PIECES[name]), referee=None)
    groups = quiet_groups(new.module, SPEC.example())
    smaller = apply(new, plan_from_kept(groups, random_masks(groups, 0)), stage="prune", config={})
    smaller.save(tmp_path)
    assert torch.equal(Model.load(tmp_path)(SPEC.example()), smaller(SPEC.example()))


def test_all_energy_kept_means_equal_outputs():
    """Low rank at full rank would have more weights, so a layer of rank 2 is planted in every place."""
    model, x_BCHW = resnet20(), SPEC.example()
    for layer in model.module.modules():
        if isinstance(layer, nn.Conv2d):
            left, value, right = torch.linalg.svd(layer.weight.data.flatten(1), full_matrices=False)
            layer.weight.data = ((left[:, :2] * value[:2]) @ right[:2]).view(layer.weight.shape)
    new, report = convert(model, CONVERSIONS.bind("low_rank", energy=1.0), referee=None)
    assert report["num_converted"] == 19
    assert {row["to"]["rank"] for row in report["layers"].values()} == {2}
    assert torch.allclose(new(x_BCHW), model(x_BCHW), atol=1e-3 * float(model(x_BCHW).abs().max()))


def test_free_channels_are_renamed_instead_of_copied():
    model, x_BCHW = resnet20(), SPEC.example()
    new, report = convert(model, CONVERSIONS.bind("grouped", min_gain=0.0), referee=None)
    inner = {path: row["to"] for path, row in report["layers"].items() if path.endswith(".0.conv1")}
    assert inner
    assert all("out_order" not in to for to in inner.values())
    free, _ = convert(model, CONVERSIONS.bind("grouped", min_gain=1.0), referee=None)
    assert not any(
        isinstance(layer, nn.Sequential) and len(convolutions(layer)) == 1 for layer in free.module.modules()
    )
    assert new(x_BCHW).shape == free(x_BCHW).shape


def test_a_renamed_network_is_the_masked_one():
    """What is left of a renamed, grouped network equals the dense one with the other weights at 0."""
    model, x_BCHW = toy_model(), TOY_INPUT.example()
    seen = {}

    def train(fading, share, on_step):
        on_step(fading.module, 0.0)
        seen["start"] = fading(x_BCHW)
        on_step(fading.module, 1.0)
        seen["end"], seen["share"] = fading(x_BCHW), share
        return fading

    new, _ = convert(model, CONVERSIONS.bind("grouped", groups=2), referee=None, train=train, share=0.3)
    assert torch.allclose(seen["start"], model(x_BCHW), atol=1e-5)
    assert torch.allclose(seen["end"], new(x_BCHW), atol=1e-5)
    assert seen["share"] == 0.3
    assert new.lineage.steps[-1].stage == "prune"


def test_faded_in_a_real_training(tmp_path):
    def train(model, share, on_step):
        config = FitConfig(max_steps=6, batch_size=16, select="last")

        def taps(module, progress):
            on_step(module, progress)
            return {}

        fit(model.module, toy_task(), config, scratch=tmp_path, what="fade", taps=taps)
        return model

    new, report = convert(toy_model(), CONVERSIONS.bind("decoupled", pairs=1), referee=None, train=train)
    assert report["num_converted"] == 4
    new.save(tmp_path / "model")
    assert torch.equal(Model.load(tmp_path / "model")(TOY_INPUT.example()), new(TOY_INPUT.example()))


def test_the_steps_are_trained_even_if_nothing_fades():
    model, calls = toy_model(), []

    def train(fading, share, on_step):
        on_step(fading.module, 0.5)
        calls.append(share)
        return fading

    new, _ = convert(model, CONVERSIONS.bind("none"), referee=None, train=train, share=0.5)
    assert calls == [0.5]
    assert new.module is not model.module
    assert new.lineage == model.lineage


def test_what_is_slower_is_refused_by_shape():
    model = resnet20()
    new, report = convert(model, CONVERSIONS.bind("separable", energy=0.6), referee=slow())
    assert new is model
    assert report["num_converted"] == 0
    assert report["speedup"] is None
    row = report["layers"]["layer1.0.conv1"]
    assert row["reason"].startswith("not faster: the network with the 6 converted layers of this shape takes 1.200")
    assert row["ratio"] == {"value": 1.2, "low": pytest.approx(1.1), "high": pytest.approx(1.3)}
    assert row["to"]["to"] == "separable"
    assert not row["is_converted"]


def test_what_may_be_slower_is_refused_too():
    _, report = convert(resnet20(), CONVERSIONS.bind("separable", energy=0.6), referee=slow(0.95))
    assert report["num_converted"] == 0


@dataclass(frozen=True)
class Fickle(Referee):
    """Finds every shape faster, and all of them together slower."""

    def ratio(self, numerator, denominator):
        is_whole = not denominator.lineage.steps or len(denominator.lineage.steps[-1].plan["layers"]) < 19
        return Ratio(0.8, 0.7, 0.9) if is_whole else Ratio(0.95, 0.9, 1.0)


def test_what_is_not_faster_in_the_end_is_taken_back():
    model = resnet20()
    new, report = convert(model, CONVERSIONS.bind("separable", energy=0.6), referee=Fickle(RUNTIMES.bind("torch")))
    assert new is model
    assert report["num_converted"] == 0
    assert report["speedup"]["value"] == 0.95
    assert report["layers"]["layer1.0.conv1"]["reason"].startswith("not faster: with all conversions")


def test_what_is_faster_is_converted():
    new, report = convert(resnet20(), CONVERSIONS.bind("separable", energy=0.6), referee=slow(0.8))
    assert report["num_converted"] == 19
    assert report["layers"]["conv1"]["is_converted"] == isinstance(new.module.conv1, nn.Sequential)
    assert report["referee"] == {"runtime": {"name": "torch"}, "batch": 1, "rounds": 40}
    assert report["speedup"]["value"] > 0


def test_a_referee_with_a_journal_measures_no_pair_twice(tmp_path, monkeypatch):
    asked = []

    def measured(referee, numerator, denominator):
        asked.append(referee.batch)
        return Ratio(0.1 + 0.2, 1 / 3, 2 / 3)

    monkeypatch.setattr(Referee, "_measured", measured)
    one, other = toy_model(), convert(toy_model(), CONVERSIONS.bind("decoupled", pairs=1), referee=None)[0]

    def ratio(numerator, denominator, **how):
        journal = Journal(tmp_path / "referee.jsonl")
        return Referee(RUNTIMES.bind("torch"), journal=journal, **how).ratio(numerator, denominator)

    assert ratio(one, other) == ratio(one, other) == Ratio(0.1 + 0.2, 1 / 3, 2 / 3)
    assert asked == [1]
    ratio(other, one)
    ratio(one, other, batch=2)
    ratio(one, other, rounds=3)
    assert asked == [1, 1, 2, 1]


def test_an_order_of_channels_makes_another_network_for_the_journal(tmp_path, monkeypatch):
    """It has no weights of its own, so only the plan tells the two apart."""
    monkeypatch.setattr(Referee, "_measured", lambda _, numerator, __: Ratio(*[len(numerator.lineage.steps)] * 3))
    referee = Referee(RUNTIMES.bind("torch"), journal=Journal(tmp_path / "referee.jsonl"))
    model = toy_model()
    longer = Model(model.module, model.input, model.lineage.then(Step(stage="prune", plan={"kind": "convert"})))
    assert referee.ratio(model, model).value == 0
    assert referee.ratio(longer, model).value == 1


@pytest.mark.slow
def test_a_real_referee():
    referee = Referee(RUNTIMES.bind("torch"), batch=2, rounds=3)
    ratio = referee.ratio(toy_model(), toy_model())
    assert 0 < ratio.low <= ratio.value <= ratio.high
    _, report = convert(toy_model(), CONVERSIONS.bind("grouped"), referee=referee)
    assert {row["is_converted"] or bool(row["reason"]) for row in report["layers"].values()} == {True}


def test_none_converts_nothing():
    model = toy_model()
    new, report = convert(model, CONVERSIONS.bind("none"), referee=None)
    assert new is model
    assert {row["reason"] for row in report["layers"].values()} == {"nothing to convert"}


def test_more_weights_are_no_conversion():
    _, report = convert(toy_model(), CONVERSIONS.bind("low_rank", energy=1.0), referee=None)
    assert report["layers"]["block.conv1"]["reason"] == "it would have 640 weights instead of 576"


def test_dense_then_grouped_then_depthwise():
    grouped, _ = convert(toy_model(), CONVERSIONS.bind("grouped", groups=2, permuted="none"), referee=None)
    depthwise, report = convert(grouped, CONVERSIONS.bind("depthwise"), referee=None)
    assert [convolutions(depthwise.module.block.conv1)[0].groups, grouped.module.block.conv1.groups] == [8, 2]
    assert report["layers"]["block.conv1"]["shape"] == "8 -> 8, 3 x 3, 2 groups, at 8 x 8"
    assert [step.plan["kind"] for step in depthwise.lineage.steps] == ["convert", "convert"]
    assert rebuild(depthwise.lineage).state_dict().keys() == depthwise.module.state_dict().keys()


def test_shapes_of_a_network():
    module, x_BCHW = network("resnet20")
    classes = shape_classes(module, x_BCHW)
    assert {shape: len(paths) for shape, paths in classes.items()} == {
        "3 -> 16, 3 x 3, at 16 x 16": 1,
        "16 -> 16, 3 x 3, at 16 x 16": 6,
        "16 -> 32, 3 x 3, stride 2, at 16 x 16": 1,
        "32 -> 32, 3 x 3, at 8 x 8": 5,
        "32 -> 64, 3 x 3, stride 2, at 8 x 8": 1,
        "64 -> 64, 3 x 3, at 4 x 4": 5,
    }
    assert classes["16 -> 16, 3 x 3, at 16 x 16"][0] == "layer1.0.conv1"


def with_twins(activation=None):
    """Return the toy network with channel 5 of the block's first layer three times channel 2, and 3 equal to 2."""
    model = toy_model()
    conv, norm = model.module.block.conv1, model.module.block.bn1
    with torch.no_grad():
        norm.running_var.uniform_(0.5, 2.0)
        norm.bias.normal_()
        for channel, factor in ((5, 3.0), (3, 1.0)):
            conv.weight[channel] = 0.5 * conv.weight[2]
            norm.running_mean[channel] = 0.5 * norm.running_mean[2]
            spread = torch.sqrt((norm.running_var[channel] + norm.eps) / (norm.running_var[2] + norm.eps))
            norm.weight[channel] = 2 * factor * norm.weight[2] * spread
            norm.bias[channel] = factor * norm.bias[2]
    return model


def test_planted_twins_are_merged_exactly(tmp_path):
    model, x_BCHW = with_twins(), TOY_INPUT.example()
    new, report = convert(model, CONVERSIONS.bind("twins"), referee=None)
    assert torch.allclose(new(x_BCHW), model(x_BCHW), atol=1e-5)
    assert new.module.block.conv1.out_channels == 6
    assert report["layers"]["block.conv1"]["to"] == {"to": "merged", "kept": "6 of 8 channels"}
    assert [step.plan["kind"] for step in new.lineage.steps] == ["cut"]
    new.save(tmp_path)
    assert torch.equal(Model.load(tmp_path)(x_BCHW), new(x_BCHW))


class Squashing(nn.Module):
    """Twins with a factor behind which there is no ReLU."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.linear = nn.Linear(4, 3)

    def forward(self, x_BCHW):
        y_BCHW = torch.sigmoid(self.conv2(torch.sigmoid(self.conv1(x_BCHW))))
        return self.linear(y_BCHW.mean((2, 3)))


@pytest.mark.parametrize(("factor", "is_merged"), [(1.0, True), (2.0, False)])
def test_an_activation_that_does_not_let_a_factor_through(factor, is_merged):
    module = Squashing()
    with torch.no_grad():
        for value in (module.conv1.weight, module.conv1.bias):
            value[3] = factor * value[0]
    model = Model(module.eval(), TOY_INPUT, toy_model().lineage)
    new, report = convert(model, CONVERSIONS.bind("twins"), referee=None)
    row = report["layers"]["conv1"]
    assert row["is_converted"] == is_merged
    assert ("let through" in row["reason"]) != is_merged
    assert torch.allclose(new(TOY_INPUT.example()), model(TOY_INPUT.example()), atol=1e-5)


def test_channels_of_a_residual_stream_are_merged_when_every_layer_agrees():
    model, x_BCHW = toy_model(), TOY_INPUT.example()
    with torch.no_grad():
        for conv, norm in ((model.module.conv1, model.module.bn1), (model.module.block.conv2, model.module.block.bn2)):
            conv.weight[1] = conv.weight[0]
            for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                value[1] = value[0]
    new, _ = convert(model, CONVERSIONS.bind("twins"), referee=None)
    assert new.module.conv1.out_channels == 7
    assert torch.allclose(new(x_BCHW), model(x_BCHW), atol=1e-5)
    with torch.no_grad():
        model.module.block.conv2.weight[1] *= 1.5
    assert convert(model, CONVERSIONS.bind("twins"), referee=None)[0].module.conv1.out_channels == 8


def test_groups_are_found_after_a_conversion():
    new, _ = convert(resnet20(), CONVERSIONS.bind("low_rank", energy=0.6), referee=None)
    names = {group.name for group in trace_groups(new.module, SPEC.example())}
    assert {"layer1.0.conv1.0", "layer3.2.conv2.0"} <= names
