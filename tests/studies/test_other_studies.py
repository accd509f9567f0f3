"""Studies 0002 to 0005 run from end to end on handwritten digits."""

import pytest
import torch

from compress import catalogue
from compress.core.model import BUILDERS, Model
from compress.core.stage import Entry
from compress.measure.clock import Clock
from compress.measure.runtimes import RUNTIMES
from compress.prune.allocators import ALLOCATORS
from compress.studies import Cell
from tests.studies.tiny import DIGITS, measured, module_of

catalogue.load()
FIT = {"batch_size": 32, "max_steps": 8, "score_batches": 2, "recalibrate_batches": 2}


@pytest.mark.slow
def test_schedules(tmp_path):
    module = module_of("0002")
    base = {
        **module.BASE,
        **DIGITS,
        "options": {"budget": "macs=0.5", "criterion": "magnitude", **FIT},
        "rates": [0.01],
    }
    table = measured(module, module.grid(base, steps=(8,), seeds=(0,)), tmp_path)
    assert {name.partition("=")[0] for name in table.names} == set(module.SCHEDULES)
    assert all(row["macs"] >= 2 for row in table.rows)
    verdict = module.conclude(table)
    assert verdict.headline.startswith("At 3 times fewer multiply-adds ")
    assert set(verdict.ideas) == {"D3", "D5"}
    assert len(verdict.sentences) == 3
    assert "one shot" in verdict.sentences[0]
    assert "soft" in module.figures(table)["gain"]


@pytest.mark.slow
def test_sparsity(tmp_path):
    module = module_of("0004")
    options = {"normalizer": "none", **FIT}
    base = {**module.BASE, **DIGITS, "options": options, "rates": [0.01]}
    cells = module.grid(base, budgets=(0.5,), seeds=(0,), penalties=("sorted_channels",))
    table = measured(module, cells, tmp_path)
    assert len(table.names) == 6
    verdict = module.conclude(table)
    assert "parsity of feature maps, trained for," in verdict.headline
    assert len(verdict.sentences) == 1 + 5
    assert verdict.ideas["C2"].startswith("sorted channels trained ")
    assert "kernel sparsity" in module.figures(table)["accuracy"]


@pytest.mark.slow
def test_allocators_under_latency(tmp_path, monkeypatch):
    """The networks here are too small for a clock, so multiply-adds stand in for the time."""
    module = module_of("0003")
    sizes = {"batch_size": 32, "score_batches": 2}
    monkeypatch.setattr(module, "CURVES", {**module.CURVES, **sizes})
    options = {**module.BASE["options"], **sizes, "latency_pause_s": 0.0}
    base = {**module.BASE, **DIGITS, "options": options, "rates": [0.01], "steps": 8}
    base["rounds"] = 2
    ours = {module.BASELINE: {"allocator": "uniform"}, "latency_knapsack": module.WITH_BLOCKS}
    ours |= {"with_blocks": module.WITH_BLOCKS, module.TAUGHT: module.WITH_BLOCKS}
    ours |= {"greedy": {"allocator": "measured_greedy"}}
    cells = list(module.grid(base, ours=ours, theirs=("magnitude",), aims=((1.6, 64),), seeds=(0, 1)))
    for cell in cells:
        if "importance" not in cell.settings:
            cell.settings["options"]["budget"] = "macs=0.001" if "greedy" in cell.name else "macs=0.625"
    monkeypatch.setattr(module, "_time", lambda cell, start, task, clock, share, way: share)
    table = measured(module, cells, tmp_path)
    first, second = table.of("tp_magnitude=1.6x,b64")
    assert first["found.share"] == 0.625
    assert second["found"] == first["found"]
    assert first["macs"] >= 1.6
    alone, taught = table.of("with_blocks=1.6x,b64")[0], table.of(f"{module.TAUGHT}=1.6x,b64")[0]
    assert alone["macs"] == taught["macs"] >= 1.6
    assert alone["test"]["cut"] == taught["test"]["cut"]
    assert alone["rates"] != taught["rates"], "the teacher changes the fine-tuning"
    verdict = module.conclude(table)
    assert "Torch-Pruning's magnitude" in verdict.headline
    assert "at 1.6x the speed (batch 64)" in verdict.headline
    assert "Out of reach at 1.6x the speed (batch 64): greedy." in verdict.sentences
    assert [row["unreachable"][:14] for row in table.of("greedy=1.6x,b64")] == ["no model fits "] * 2
    assert set(verdict.ideas) == {ALLOCATORS["latency_knapsack"].idea, "A5"}
    assert set(module.figures(table)) == {"1.6x-b64"}


@pytest.mark.slow
def test_torch_pruning_is_timed(tmp_path):
    module = module_of("0003")
    model = Model.build(BUILDERS.bind("resnet_cifar", depth=8, width=8), module.task_of("digits").input, seed=0)
    settings = {**module.BASE, "importance": "magnitude", "batch_size": 16}
    cell = Cell(name="tp_magnitude", settings=settings)
    with Clock.against(Entry.of(model), RUNTIMES.bind("onnxruntime"), batch=1, rounds=2) as clock:
        way = {"reach": "inside", "steps": 1}
        assert module._time(cell, model, module.task_of("digits"), clock, 0.5, way) > 0
        assert module._time(cell, model, module.task_of("digits"), clock, 1e-6, way) is None


def test_allocators_has_all_of_them_at_two_speeds_and_two_batches():
    module = module_of("0003")
    names = {cell.name for cell in module.full()}
    assert {f"{name}=2x,b1" for name in ALLOCATORS} <= names
    assert {name.partition("=")[2] for name in names} == {"1.6x,b1", "1.6x,b64", "2x,b1", "2x,b64"}


@pytest.mark.slow
def test_large_then_prune(tmp_path):
    module = module_of("0005")
    base = {**module.BASE, **DIGITS}
    table = measured(module, module.grid(base, parts=(0.4,), lengths=((12, 4),), seeds=(0,)), tmp_path)
    pruned, narrow, long, fresh = (table.of(f"{kind}=0.4,16")[0] for kind in module.TOLD)
    assert pruned["steps"] == narrow["steps"] == 16
    assert fresh["macs"] == pruned["macs"]
    assert long["macs"] >= 2.5
    for other in (long, fresh):
        assert other["spent"] == pytest.approx(pruned["spent"], rel=0.05)
    assert narrow["spent"] < pruned["spent"]
    verdict = module.conclude(table)
    assert verdict.headline.startswith("Large then pruned is ")
    assert len(verdict.sentences) == 2
    assert verdict.table.count("\n| ") == 5


@pytest.mark.slow
def test_resnet56(tmp_path):
    module = module_of("0007")
    recovery = {"precision": "float32", "epochs": 2, "batch_size": 32, "rate": 0.02, "ema_decay": 0.0, "loss": "logits"}
    prune = {**module.BASE["prune"], "batch_size": 32, "score_batches": 2, "schedule": "one_shot"}
    base = {**module.BASE, **DIGITS, "recovery": recovery, "prune": prune}
    table = measured(module, module.grid(base, speeds=("2.1",), seeds=(0,)), tmp_path)
    clean, alike = (table.of(f"{kind}=2.1")[0] for kind in (module.CLEAN, module.ALIKE))
    assert clean["macs"] >= 2.1
    assert clean["test.start"] == alike["test.start"]
    assert alike["selected_on"] == alike["test.tuned"], "the literature selects on test images"
    verdict = module.conclude(table)
    assert verdict.headline.endswith("below the best published 93.77 % at 2.13x, like for like.")
    assert verdict.sentences[0].endswith("not like for like.")
    assert "best published" in module.figures(table)["accuracy"]


def test_the_literature_trains_on_everything_and_selects_on_test_images():
    module = module_of("0007")
    plain = module.task_of("digits")
    task = module.as_the_literature(plain)
    size, rest = len(plain.split("train")), len(plain.split("validation"))
    train = task.split("train")
    assert len(train) == size + rest
    index = torch.tensor([size + 1, 0, size - 1, size])
    expected = [
        plain.split("validation").images(index[:1] - size)[0],
        plain.split("train").images(index[1:2])[0],
        plain.split("train").images(index[2:3])[0],
        plain.split("validation").images(index[3:] - size)[0],
    ]
    assert torch.equal(train.images(index), torch.stack(expected))
    assert train.labels_B[size + 1] == plain.split("validation").labels_B[1]
    assert torch.equal(task.split("validation").labels_B, plain.opened().split("test").labels_B)
    assert task.digest != plain.digest


@pytest.mark.slow
def test_conversions(tmp_path):
    module = module_of("0008")
    options = {**module.BASE["options"], **FIT, "latency_rounds": 2, "runtime": "torch"}
    base = {**module.BASE, **DIGITS, "options": options, "builder": {"name": "resnet_cifar", "depth": 8, "width": 16}}
    table = measured(module, module.grid(base, conversions=("low_rank",), batches=(64,), seeds=(0,)), tmp_path)
    converted, channels = table.rows
    assert converted["offered"] >= 5
    assert channels["macs"] >= 1
    verdict = module.conclude(table)
    assert "low rank" in f"{verdict.headline} {verdict.sentences}".lower()
    assert module.figures(table)["accuracy"]
