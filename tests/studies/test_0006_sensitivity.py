import re

import pytest

from compress import catalogue
from compress.studies import Cell, Row, Table
from compress.studies.record import RANKING
from tests.studies.tiny import DIGITS, measured, module_of

catalogue.load()
STREAM = "stem"


@pytest.fixture(scope="module")
def module():
    return module_of("0006")


def curve(group, gain, kind="channels"):
    kept = [8, 4, 2] if kind == "channels" else [1, 0]
    losses = [1.0, 1.0 + gain, 1.0 + 2 * gain][: len(kept)]
    return {"group": group, "kind": kind, "kept": kept, "losses": losses, "accuracies": [0.5] * len(kept)}


def row(name, seed, gains, stream=9.0, blocks=(0.1, 0.2)):
    """Return a network of groups a, b, ... inside of blocks, one stream and two blocks."""
    names = "abcdef"[: len(gains)]
    curves = [curve(STREAM, stream), *(curve(group, gain) for group, gain in zip(names, gains, strict=True))]
    curves += [curve(f"block{k}", gain, "block") for k, gain in enumerate(blocks)]
    return Row(cell=Cell(name=name, seed=seed), result={"accuracy": 0.5, "inside": [*names], "curves": curves})


def table_of(*rows):
    return Table(preset="quick", rows=rows)


def test_correlations_within_and_between_data_sets_by_hand(module):
    # orders of the damages: 1 2 3, 1 3 2, 3 2 1; Spearman 0.5 within, -1 and -0.5 between
    table = table_of(row("x", 0, (0.1, 0.2, 0.3)), row("x", 1, (0.1, 0.3, 0.2)), row("y", 0, (0.3, 0.2, 0.1)))
    labels, values = module.correlations(table)
    assert labels == ["x", "x", "y"]
    assert values[0] == pytest.approx([1.0, 0.5, -1.0])
    assert values[1][2] == pytest.approx(-0.5)
    verdict = module.conclude(table)
    assert "of 0.50 (one pair; unrelated orders: 0 ± 1.39)" in verdict.headline
    assert "with -0.75 (2 pairs; unrelated orders: 0 ± 0.98)" in verdict.headline
    # all ways to call one of three networks y: p = 1 / 3
    assert "too few networks to tell the two apart (p = 0.33, all 3 arrangements)" in verdict.headline
    # beside it the stream, worst everywhere: orders 4 1 2 3, 4 1 3 2, 4 3 2 1; 0.8 within, 0.2 and 0.4 between
    assert verdict.sentences[0] == (
        "For comparison, untested, the two are over all groups, streams between blocks among them, 0.80 and 0.30; "
        "over whole blocks 1.00 and 1.00."
    )


ORDERS = {
    "u": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    "v": (0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
    "w": (0.3, 0.1, 0.6, 0.4, 0.2, 0.5),
    "x": (0.2, 0.5, 0.1, 0.6, 0.3, 0.4),
}


def nearly(gains, seed):
    """Return the gains with two neighbours in the order exchanged."""
    first, second = sorted(gains)[seed : seed + 2]
    return tuple({first: second, second: first}.get(gain, gain) for gain in gains)


def test_data_sets_with_orders_of_their_own_are_told_apart(module):
    rows = [row(name, seed, nearly(gains, seed)) for name, gains in ORDERS.items() for seed in (0, 1)]
    headline = module.conclude(table_of(*rows)).headline
    assert "that networks on the same data agree more is shown (p = 0.0095, all 2,520 arrangements)" in headline


def test_a_stream_that_is_always_worst_shows_nothing(module):
    # inside of blocks, every network has an order that no other has, whatever its data
    orders = [(3, 1, 6, 4, 2, 5), (2, 5, 1, 6, 3, 4), (6, 5, 4, 3, 2, 1), (4, 6, 2, 1, 5, 3), (5, 2, 3, 6, 1, 4)]
    orders += [(1, 4, 5, 2, 6, 3), (1, 2, 3, 4, 5, 6), (2, 1, 4, 6, 5, 3)]
    rows = [row("uvwx"[k % 4], k // 4, [value / 10 for value in order]) for k, order in enumerate(orders)]
    verdict = module.conclude(table_of(*rows))
    assert "is not shown (p = " in verdict.headline
    within = float(re.search(r"rank correlation of (-?[0-9.]+)", verdict.headline)[1])
    beside = float(re.search(r"streams between blocks among them, (-?[0-9.]+)", verdict.sentences[0])[1])
    assert beside > within + 0.2
    assert not any("Corrected" in sentence for sentence in verdict.sentences)


def test_the_noise_between_starts_is_taken_out(module):
    swapped = (0.2, 0.1, 0.3, 0.4, 0.5, 0.6)
    table = table_of(*(row(name, seed, order) for name in "xy" for seed, order in enumerate((ORDERS["u"], swapped))))
    # both data sets have the same two orders: within 33/35, between the mean of 1, 33/35, 33/35 and 1
    verdict = module.conclude(table)
    assert "| x | 0.94 | 0.97 (1.03) |" in verdict.table
    assert "| y | 0.97 | 0.94 |" in verdict.table
    corrected = next(sentence for sentence in verdict.sentences if sentence.startswith("Corrected"))
    assert "1.03 (one of the pairs of data sets)" in corrected


def test_networks_without_an_order_are_left_out(module):
    table = table_of(row("x", 0, (0.1, 0.2, 0.3)), row("x", 1, (0.2, 0.2, 0.2)))
    assert module.correlations(table)[0] == ["x"]
    assert module.conclude(table).headline == "2 cells are measured, too few to compare."
    assert set(module.figures(table)) == {"correlations", "groups"}


def paced(name, seed, at_once, slow, whole=0.9):
    losses = {group: {"at_once": a, "slow": b} for group, a, b in zip("abc", at_once, slow, strict=True)}
    cell = Cell(name=f"speed-{name}", seed=seed, settings={"pace": {"ratio": 0.25}})
    return Row(cell=cell, result={"whole": whole, "losses": losses})


def test_speeds_are_compared_on_each_data_set_over_its_own_networks(module):
    starts = [row(name, seed, (0.1, 0.2, 0.3)) for name in "xy" for seed in (0, 1)]
    # x loses 0.2 and 0.22 less when cut slowly, y gains 0.1 once and loses 0.083 once
    speeds = (
        paced("x", 0, (1.0, 1.1, 1.2), (0.8, 0.9, 1.0)),
        paced("x", 1, (5.0, 5.1, 5.2), (4.78, 4.88, 4.98)),
        paced("y", 0, (1.2, 1.1, 1.0), (1.3, 1.2, 1.1)),
        paced("y", 1, (1.2, 1.1, 1.0), (1.0, 1.15, 0.9)),
    )
    table = table_of(*starts, *speeds)
    found = module.speeds_of(table, "x")
    assert found["slow"] == pytest.approx({0: 0.9, 1: 4.88})
    assert found["foretold"] == pytest.approx({0: 1.0, 1: 1.0})
    assert module.speeds_of(table, "y")["agree"] == pytest.approx({0: 1.0, 1: 0.5})
    sentences = module.conclude(table).sentences
    assert any(
        text.startswith("On x") and "lowers the loss by 0.210 ± 0.127 (2 networks)" in text for text in sentences
    )
    assert any(text.startswith("On y") and "by no more than noise, 0.008 ± " in text for text in sentences)
    assert any("same order with a rank correlation of 0.88 (0.50 to 1.00 in 4 networks)" in text for text in sentences)
    assert any("foretells the loss behind training with a rank correlation of 0.00" in text for text in sentences)
    alone = module.conclude(table_of(*starts, speeds[0])).sentences
    assert any("lowers the loss by 0.200 (one network, so no interval)" in text for text in alone)


@pytest.mark.parametrize("preset", ["quick", "cpu", "full"])
def test_both_cuts_of_a_preset_are_the_same(module, preset):
    assert preset in RANKING
    cells = module.STUDY.cells(preset)
    assert {cell.seed for cell in cells if not cell.name.startswith(module.SPEED)} == {0, 1, 2}
    assert len({module.seed_of(cell) for cell in cells}) == len([cell for cell in cells if not cell.after])
    for cell in cells:
        assert cell.settings["curves"]["compensation"] == "none"
        if "pace" in cell.settings:
            assert cell.settings["pace"]["ratio"] in cell.settings["curves"]["ratios"]
            assert cell.settings["pace"]["steps"] % cell.settings["pace"]["cuts"] == 0


@pytest.mark.slow
def test_it_runs_and_concludes(module, tmp_path):
    sizes = {"ratios": [0.5, 0.25], "recalibrate_batches": 2, "batch_size": 32, "validation_limit": 64}
    base = {
        "builder": DIGITS["builder"],
        "train": DIGITS["train"],
        "curves": {**module.BASE["curves"], **sizes},
    }
    pace = module.PACE | {"steps": 4, "batch_size": 32, "images": 64}
    cells = list(module.grid(base, pace, seeds=(0, 1), paced=(("mnist", 0),), data=("mnist",)))
    table = measured(module, cells, tmp_path, task=DIGITS["task"])
    assert [one.cell.label for one in table.rows] == ["mnist@0", "mnist@1", "speed-mnist@0"]
    first, second = table.of("mnist")
    assert first["curves"] != second["curves"]
    assert first["inside"] == ["layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"]
    assert {one["group"] for one in first["curves"] if one["kind"] == "channels"} > set(first["inside"])
    losses = table.of("speed-mnist")[0]["losses"]
    assert list(losses) == first["inside"]
    assert all(set(one) == {"at_once", "slow"} for one in losses.values())
    verdict = module.conclude(table)
    assert verdict.headline.startswith("After 24 steps of training, networks from other starts")
    assert any("foretells" in sentence for sentence in verdict.sentences)
    assert set(module.figures(table)) == {"correlations", "groups"}


@pytest.mark.slow
def test_each_network_is_recalibrated_by_images_of_its_own(module, tmp_path, monkeypatch):
    seen = []
    run_stage = module.run_stage

    def note(stage, config, *args):
        seen.append((stage, config["seed"], config["compensation"]))
        return run_stage(stage, config, *args)

    monkeypatch.setattr(module, "run_stage", note)
    sizes = {"ratios": [0.5], "recalibrate_batches": 1, "batch_size": 32, "validation_limit": 32}
    base = {"builder": DIGITS["builder"], "train": {"max_steps": 1, "batch_size": 32}}
    base["curves"] = {**module.BASE["curves"], **sizes}
    cells = list(module.grid(base, module.PACE, seeds=(0, 1), paced=(), data=("mnist", "cifar10")))
    measured(module, cells, tmp_path, task=DIGITS["task"])
    assert [(stage, compensation) for stage, _, compensation in seen] == 4 * [("sensitivity", "none")]
    assert [seed for _, seed, _ in seen] == [module.seed_of(cell) for cell in cells]
    assert len({seed for _, seed, _ in seen}) == 4
