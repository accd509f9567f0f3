import pytest

from compress import catalogue
from compress.studies import Cell, Row, Table
from tests.studies.tiny import DIGITS, measured, module_of

catalogue.load()


@pytest.fixture(scope="module")
def module():
    return module_of("0006")


def curve(group, *gains):
    losses = [1.0, *(1.0 + gain for gain in gains)]
    size = len(losses)
    counted = {name: [1.0] * size for name in ("accuracies", "macs", "params")}
    return {
        "group": group,
        "kind": "channels",
        "kept": [8, 4, 2][:size],
        "ratios": [1.0, 0.5, 0.25][:size],
        "losses": losses,
        "keys": [""] * size,
        **counted,
    }


def row(name, seed, *gains):
    curves = [curve(group, gain, 2 * gain) for group, gain in zip("abc", gains, strict=True)]
    return Row(cell=Cell(name=name, seed=seed), result={"accuracy": 0.5, "curves": curves})


def test_correlations_within_and_between_data_sets_by_hand(module):
    # orders of the damages: 1 2 3, 1 3 2, 3 2 1; Spearman 0.5 within, -1 and -0.5 between
    rows = (row("x", 0, 0.1, 0.2, 0.3), row("x", 1, 0.1, 0.3, 0.2), row("y", 0, 0.3, 0.2, 0.1))
    table = Table(preset="quick", rows=rows)
    same, other = module.pairs_of(table)
    assert same == [pytest.approx(0.5)]
    assert other == [pytest.approx(-1.0), pytest.approx(-0.5)]
    headline = module.conclude(table).headline
    assert "0.50, from one pair" in headline
    assert "-0.75, -1.00 to -0.50 in 2 pairs" in headline
    assert "without overlap" in headline


@pytest.mark.slow
def test_it_runs_and_concludes(module, tmp_path):
    base = {
        "builder": DIGITS["builder"],
        "train": DIGITS["train"],
        "curves": {"ratios": [0.5, 0.25], "recalibrate_batches": 2, "batch_size": 32, "validation_limit": 64},
    }
    pace = module.PACE | {"steps": 4, "batch_size": 32, "images": 64}
    cells = list(module.grid(base, pace, seeds=(0, 1), paced=(("mnist", 0),), data=("mnist",)))
    table = measured(module, cells, tmp_path, task=DIGITS["task"])
    assert [one.cell.label for one in table.rows] == ["mnist@0", "mnist@1", "speed-mnist@0"]
    assert table.of("mnist")[0]["curves"] != table.of("mnist")[1]["curves"]
    losses = table.of("speed-mnist")[0]["losses"]
    assert len(losses) >= 4
    assert all(set(one) == {"at_once", "slow"} for one in losses.values())
    verdict = module.conclude(table)
    assert verdict.headline.startswith("Networks from other starts agree")
    assert any("foretells" in sentence for sentence in verdict.sentences)
    assert set(module.figures(table)) == {"correlations", "groups"}
