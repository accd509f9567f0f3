"""Studies 0002 to 0004 run from end to end on handwritten digits."""

import re
from contextlib import suppress

import pytest

from compress import catalogue
from compress.core.model import BUILDERS, Model
from compress.prune.allocators import ALLOCATORS
from studies.torch_pruning_side import Cutter, Way
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
    }
    table = measured(module, module.grid(base, steps=(24,), seeds=(0,), rates=(0.01, 0.03)), tmp_path)
    assert {name.partition("=")[0] for name in table.names} == set(module.SCHEDULES)
    assert all(row["macs"] >= 2 for row in table.rows)
    verdict = module.conclude(table)
    assert all(row["steps"] == 24 and len(row["candidates"]) == 2 for row in table.rows)
    assert all(max(row["candidates"]) == row["validation"]["tuned"] for row in table.rows)
    assert verdict.headline.startswith(
        "Over a single cut, in points at 3 times fewer multiply-adds: progressive gains "
    )
    assert set(verdict.ideas) == {"D3", "D5"}
    assert len(verdict.sentences) == 3
    assert "one shot" in verdict.sentences[0]
    assert "soft" in module.figures(table)["gain"]


@pytest.mark.slow
def test_sparsity(tmp_path):
    module = module_of("0004")
    base = {**module.BASE, **DIGITS, "options": FIT}
    penalties = (module.MAPS, module.KERNELS, "sorted_channels")
    cells = module.grid(base, budgets=(0.5,), seeds=(0,), penalties=penalties, num_candidates=1)
    table = measured(module, cells, tmp_path)
    assert len(table.names) == 3 * 3
    assert {row["steps"] for row in table.rows} == {8}
    verdict = module.conclude(table)
    assert "parsity of feature maps, trained for," in verdict.headline
    assert len(verdict.sentences) == 1 + 3 + 8
    assert verdict.ideas["C2"].startswith("sorted channels trained ")
    assert "kernel sparsity" in module.figures(table)["accuracy"]


@pytest.mark.slow
def test_allocators_under_latency(tmp_path, monkeypatch):
    """The networks here are too small for a clock, so multiply-adds stand in for the time."""
    module = module_of("0003")
    sizes = {"batch_size": 32, "score_batches": 2}
    options = {**module.BASE["options"], **sizes, "latency_pause_s": 0.0}
    base = {**module.BASE, **DIGITS, "options": options, "rates": [0.01], "steps": 8}
    base["rounds"] = 2
    ours = {module.BASELINE: {"allocator": "uniform"}, "latency_knapsack": module.WITH_BLOCKS}
    ours |= {"with_blocks": module.WITH_BLOCKS, module.TAUGHT: module.WITH_BLOCKS}
    ours |= {"threshold_line": {"allocator": "threshold_line"}}
    ours |= {f"latency_knapsack{module.MIXED}": {"allocator": "latency_knapsack", "units": "blocks"}}
    both = {"ours": ours, "theirs": ("magnitude",), "aims": ((1.6, 64),), "seeds": (0, 1)}
    search = module.SEARCH
    cells = list(module.grid(base, curves={**module.CURVES, **sizes}, search=search, **both))
    for cell in cells:
        if "importance" not in cell.settings:
            cell.settings["options"]["budget"] = "macs=0.001" if "threshold_line" in cell.name else "macs=0.625"

    def reached_by(cutter, share, way):
        with suppress(ValueError):
            cutter(share, Way(**way))
            return share

    def counted(cutter, ways, wanted, settings):
        return {name: [reached_by(cutter, share, ways[name]) for share in wanted[name]] for name in ways}

    monkeypatch.setattr(module, "_times", counted)
    table = measured(module, cells, tmp_path)
    first, second = table.of("tp_magnitude=1.6x,b64")
    assert 0.9 * 0.625 <= first["found.share"] <= 0.625
    accuracies = [way["accuracy"] for way in first["found.ways"]]
    reached = [way["way"] for way in first["found.ways"]]
    assert reached == [way for way in module.TP_WAYS if way != module.TP_WAYS[4]], "all but the one out of reach"
    assert first["found.accuracy"] == max(accuracies)
    assert second["found"] == first["found"]
    assert first["macs"] >= 1.6
    alone, taught = table.of("with_blocks=1.6x,b64")[0], table.of(f"{module.TAUGHT}=1.6x,b64")[0]
    assert alone["macs"] == taught["macs"] >= 1.6
    assert alone["test"]["cut"] == taught["test"]["cut"]
    assert alone["rates"] != taught["rates"], "the teacher changes the fine-tuning"
    verdict = module.conclude(table)
    assert "Torch-Pruning's magnitude" in verdict.headline
    assert re.search(r"at 1.6x the speed \(batch 64; in the end \d\.\d\dx and \d\.\d\dx\)", verdict.headline)
    assert "Out of reach at 1.6x the speed (batch 64): threshold line." in verdict.sentences
    assert [row["unreachable"][:14] for row in table.of("threshold_line=1.6x,b64")] == ["no model fits "] * 2
    assert set(verdict.ideas) == {"A5", "C1", "D1", "D2", "D7"}
    assert {idea for idea, said in verdict.ideas.items() if said} == {"A5", "C1", "D7"}, "no cell judges the others"
    assert verdict.ideas["A5"].startswith("latency knapsack and blocks ")
    assert "latency knapsack" in verdict.ideas["A5"][20:]
    line = "No network of threshold line is found at 1.6x the speed (batch 64); of uniform one is."
    assert verdict.ideas["C1"] == line
    assert "latency knapsack " in verdict.ideas["D7"]
    assert "Torch-Pruning" not in verdict.ideas["D7"]
    assert any(
        said.startswith("with blocks and teacher ") and "with blocks " in said[10:] for said in verdict.sentences
    )
    assert set(module.figures(table)) == {"1.6x-b64"}


@pytest.mark.parametrize(("smallest", "floor", "wanted"), [(0.0, 0.0, 0.5), (0.3, 0.0, 0.5), (0.0, 0.4, 1 / 6)])
def test_two_looks_come_close_to_the_share_that_is_as_fast(smallest, floor, wanted):
    module = module_of("0003")
    times = {}
    for _ in range(2):
        shares = module.next_shares(times, 0.5, 5)
        assert len(shares) == 5
        times |= {share: floor + (1 - floor) * share if share >= smallest else None for share in shares}
    found = max(share for share, spent in times.items() if spent is not None and spent <= 0.5)
    assert 0.9 * wanted <= found <= wanted


def test_where_no_share_is_as_fast_the_smallest_that_can_be_reached_is_looked_for():
    module = module_of("0003")
    assert min(module.next_shares({0.1: 0.7, 0.3: 0.8}, 0.5, 5)) < 0.06
    between = module.next_shares({0.1: None, 0.3: 0.8}, 0.5, 5)
    assert min(between) > 0.1
    assert max(between) < 0.3


@pytest.mark.slow
def test_torch_pruning_is_timed(tmp_path):
    module = module_of("0003")
    task = module.task_of("digits")
    model = Model.build(BUILDERS.bind("resnet_cifar", depth=8, width=8), task.input, seed=0)
    cutter = Cutter(model, task, "magnitude", batches=1, batch_size=16, seed=0)
    ways = {"inside": {"reach": "inside"}, "all": {"reach": "all"}}
    wanted = {"inside": [1e-6, 0.5], "all": [0.1, 0.9]}
    settings = {**module.SEARCH, "search_sessions": 3, "search_pause_s": 0.0, "aim": {"batch": 64}}
    found = module._times(cutter, ways, wanted, settings)
    assert found["inside"][0] is None
    assert found["inside"][1] > 0
    assert 0 < found["all"][0] < found["all"][1]


def test_allocators_has_all_of_them_at_two_speeds_and_two_batches():
    module = module_of("0003")
    names = {cell.name for cell in module.full()}
    assert {f"{name}=2x,b1" for name in ALLOCATORS} <= names
    assert {name.partition("=")[2] for name in names} == {"1.6x,b1", "1.6x,b64", "2x,b1", "2x,b64"}
