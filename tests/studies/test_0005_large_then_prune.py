from dataclasses import fields

import pytest
import torch
from torch import nn

from compress import catalogue
from compress.core.lineage import rebuild
from compress.core.model import BUILDERS, Model
from compress.core.random import seeded
from compress.core.stage import STAGES
from compress.run import task_of
from compress.studies import Cell, Row, Table
from studies.protocol import cut_alone
from tests.studies.tiny import DIGITS, measured, module_of

catalogue.load()
PRUNE = {"score_batches": 2, "recalibrate_batches": 2}


@pytest.fixture(scope="module")
def module():
    return module_of("0005")


def tiny(module, **settings):
    return {**module.BASE, **DIGITS, "prune": {**module.BASE["prune"], **PRUNE}, "rounds": 0, **settings}


def table_of(module, tail, accuracies, *, macs=4.0):
    """Return rows with these test accuracies by kind and seed."""
    rows = [
        Row(
            cell=Cell(name=f"{kind}{tail}", seed=seed),
            result={"test": {"tuned": value}, "macs": macs, "steps": 16, "spent": 3e12, "rate": 0.1},
        )
        for kind, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return Table(preset="quick", rows=tuple(rows))


def test_pruning_is_what_the_stage_does_by_default(module):
    default = STAGES["prune"].extra["config"]()
    assert STAGES["prune"].extra["config"].from_json(module.BASE["prune"]).as_json() == default.as_json()
    assert set(module.BASE["prune"]) <= {field.name for field in fields(default)}


@pytest.mark.parametrize(("preset", "num_sizes"), [("cpu", 1), ("full", 4)])
def test_every_kind_has_three_seeds_and_two_rates_and_knows_what_it_comes_after(module, preset, num_sizes):
    cells = module.STUDY.cells(preset)
    assert len(cells) == len(module.SAID) * 3 * num_sizes
    assert {len(cell.settings["rates"]) for cell in cells} == {2}
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    for cell in cells:
        kind, _, tail = cell.name.partition("=")
        pruned, first = f"{module.PRUNED}={tail}@{cell.seed}", f"{cell.name}@0"
        expected = {label for label in (pruned, first) if label != cell.label}
        assert set(cell.after) == (expected - {pruned} if kind == module.PRUNED else expected)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "depth"), [(8, 20), (11, 20), (8, 14)])
def test_the_pruned_network_costs_what_the_narrow_one_costs(module, tmp_path, width, depth):
    task = task_of("cifar10")
    settings = {**module.BASE, "builder": {"name": "resnet_cifar", "depth": depth}}
    large, narrow = (module._built(settings, task, own, seed=0) for own in ({}, {"width": width}))
    assert narrow.lineage.builder["width"] == width
    part = module._macs(narrow) / module._macs(large)
    options = {**module.BASE["prune"], "budget": f"macs={part!r}", "compensation": "none"}
    cut = cut_alone(large, task, options, seed=0, scratch=tmp_path)
    assert 0.95 <= module._macs(cut) / module._macs(narrow) <= 1


def test_fresh_weights_are_not_those_that_the_large_network_started_from(module, tmp_path):
    task = task_of(DIGITS["task"])
    large = Model.build(BUILDERS.from_json(DIGITS["builder"]), task.input, seed=3)
    pruned = cut_alone(large, task, {"budget": "macs=0.3", "compensation": "none"}, seed=3, scratch=tmp_path)
    with seeded(3, "build"):
        ticket = rebuild(pruned.lineage)
    fresh, again, other = (module.fresh(pruned, seed=seed) for seed in (3, 3, 4))
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (fresh.module, pruned.module)]
    assert shapes[0] == shapes[1]
    for name, layer in fresh.module.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        here = layer.weight.detach().flatten()
        assert torch.equal(layer.weight, again.module.get_submodule(name).weight)
        for one in (ticket.get_submodule(name), other.module.get_submodule(name)):
            alike = torch.corrcoef(torch.stack([here, one.weight.detach().flatten()]))[0, 1]
            assert abs(float(alike)) < 5 / len(here) ** 0.5
        spread = (2 / layer.weight[0].numel()) ** 0.5
        assert float(here.std()) == pytest.approx(spread, rel=4 / (2 * len(here)) ** 0.5), name


def test_the_cost_of_pruning_by_hand(module):
    settings = {
        "batch_size": 10,
        "training": 100,
        "tuning": 20,
        "prune": {"score_batches": 3, "recalibrate_batches": 6},
    }
    # 3 * 10 * (100 * 8 + 20 * 2) for steps, 10 * 3 * 8 for the compensation, 10 * 6 * 2 for the statistics
    assert module._spent_on_pruning(settings, 8.0, 2.0) == 25_200 + 240 + 120


@pytest.mark.slow
def test_every_kind_is_trained_alike_at_equal_cost_and_the_first_seed_chooses(module, tmp_path, monkeypatch):
    told, run_stage, fit = [], module.run_stage, module.fit

    def stage(name, config, *rest):
        told.append((name, config))
        return run_stage(name, config, *rest)

    def scratch(trained, task, config, **rest):
        told.append(("fit", {"precision": config.precision, "batch_size": config.batch_size, "seed": config.seed}))
        return fit(trained, task, config, **rest)

    monkeypatch.setattr(module, "run_stage", stage)
    monkeypatch.setattr(module, "fit", scratch)
    cells = module.grid(tiny(module), widths=(5,), lengths=((12, 4),), seeds=(0, 1))
    table = measured(module, cells, tmp_path)
    assert {name for name, _ in told} == {"train", "prune", "fit"}
    assert {(own["precision"], own["batch_size"]) for _, own in told} == {("bfloat16", 32)}
    tuning = [own["seed"] for name, own in told if name == "prune"]
    assert len(tuning) == 3
    assert set(tuning).isdisjoint({0, 1}), "fine-tuning has an order of images of its own"
    pruned, narrow, long, fresh = (
        table.of(f"{kind}=width5,12+4") for kind in (module.PRUNED, module.NARROW, module.LONG, module.FRESH)
    )
    budgets = {float(own["budget"].removeprefix("macs=")) for name, own in told if name == "prune"}
    assert list(budgets) == [pytest.approx(1 / narrow[0]["macs"])], (
        "the pruned network may cost what the narrow one costs"
    )
    for first, second in (pruned, narrow, long, fresh):
        assert len(first["rates"]) == 2
        assert first["rate"] == float(max(first["rates"], key=first["rates"].get))
        assert first["validation.tuned"] == max(first["rates"].values())
        assert (second["rate"], len(second["rates"])) == (first["rate"], 1)
    for seed in (0, 1):
        assert pruned[seed]["steps"] == narrow[seed]["steps"] == 16
        assert fresh[seed]["macs"] == pruned[seed]["macs"] >= long[seed]["macs"] == narrow[seed]["macs"]
        for other in (long[seed], fresh[seed]):
            one_step = other["spent"] / other["steps"]
            assert abs(other["spent"] - pruned[seed]["spent"]) <= one_step / 2
        assert narrow[seed]["spent"] < pruned[seed]["spent"]
    verdict = module.conclude(table)
    assert verdict.headline.startswith("Large then pruned ")
    assert len(verdict.sentences) == 3
    assert verdict.table.count("\n| ") == 5
    assert "large then pruned" in module.figures(table)["accuracy"]


def test_every_sentence_of_the_verdict_has_a_mean_and_an_interval(module):
    accuracies = {
        module.PRUNED: (0.90, 0.92, 0.91),
        module.LONG: (0.89, 0.90, 0.90),
        module.FRESH: (0.90, 0.90, 0.92),
        module.NARROW: (0.80, 0.83, 0.82),
    }
    verdict = module.conclude(table_of(module, "=width8,1000+200", accuracies))
    where = "at 4.0x fewer multiply-adds, 1,000 + 200 steps (3 seeds)"
    assert verdict.headline == (
        "Large then pruned against narrow from scratch at equal cost at 4.0x fewer multiply-adds, 1,000 + 200 steps: "
        "not decided, 1.33 ± 1.43 points (3 seeds)."
    )
    assert len(verdict.sentences) == 3
    assert all("±" in sentence for sentence in verdict.sentences)
    assert verdict.sentences[1].startswith(
        "the pruned structure from scratch at equal cost against narrow from scratch"
    )
    assert verdict.sentences[2] == (
        f"large then pruned beats narrow from scratch for as many steps by 9.33 ± 1.43 points {where}."
    )


def test_the_headline_stands_for_every_width_and_length(module):
    small = table_of(module, "=width8,10+2", {module.PRUNED: (0.9, 0.8), module.LONG: (0.8, 0.8)})
    other = table_of(module, "=width11,10+2", {module.PRUNED: (0.7,), module.LONG: (0.8,)}, macs=2.1)
    headline = module.conclude(Table(preset="full", rows=small.rows + other.rows)).headline
    assert headline == (
        "Large then pruned minus narrow from scratch at equal cost, in points: "
        "5.00 ± 63.53 at 4.0x fewer multiply-adds, 10 + 2 steps (2 seeds); "
        "-10.00 at 2.1x fewer multiply-adds, 10 + 2 steps (1 seed, so no interval)."
    )


def test_nothing_is_claimed_without_the_baseline(module):
    table = table_of(module, "=width8,10+2", {module.PRUNED: (0.9, 0.8), module.FRESH: (0.8, 0.8)})
    verdict = module.conclude(table)
    assert verdict.headline == "4 cells are measured, too few to compare with the narrower network at equal cost."
    assert len(verdict.sentences) == 1
