import math

import pytest

from compress.studies import Cell, Row, Table
from compress.studies.statistics import best_of, comparison, estimate, paired, t_quantile


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (30, 2.0423)]
)
def test_quantiles_are_those_of_the_table(freedom, expected):
    assert t_quantile(freedom) == pytest.approx(expected, abs=5e-5)


def test_an_interval_computed_by_hand():
    # values 88, 89, 90.5: mean 89.1667, s² = (1.3611 + 0.0278 + 1.7778) / 2 = 1.58333
    found = estimate([88.0, 89.0, 90.5])
    assert found.mean == pytest.approx(89.16667, abs=1e-5)
    assert found.half == pytest.approx(4.30265 * math.sqrt(1.583333 / 3), abs=1e-4)


def test_one_value_has_no_interval():
    found = estimate([0.5])
    assert (found.mean, found.half, found.text()) == (0.5, None, "0.50")
    assert not found.is_above
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_pairing_takes_out_what_seeds_share():
    # the seeds differ by 10, the two by 1 ± 0.1
    a, b = {0: 11.0, 1: 21.1, 2: 30.9}, {0: 10.0, 1: 20.0, 2: 30.0, 3: 99.0}
    gap = paired(a, b)
    assert gap.num == 3
    assert gap.mean == pytest.approx(1.0)
    assert gap.half == pytest.approx(4.30265 * 0.1 / math.sqrt(3), abs=1e-5)
    with pytest.raises(ValueError, match="no seed in common"):
        paired({0: 1.0}, {1: 1.0})


def test_sentences_say_who_wins_who_loses_and_that_nobody_does():
    high, low = {0: 0.900, 1: 0.901, 2: 0.902}, {0: 0.880, 1: 0.882, 2: 0.881}
    assert comparison("a", high, "b", low) == "a beats b by 2.00 ± 0.25 points (3 seeds)."
    assert comparison("b", low, "a", high, where="at 2x") == "b loses to a by 2.00 ± 0.25 points at 2x (3 seeds)."
    noisy = {0: 0.890, 1: 0.912, 2: 0.890}
    assert comparison("a", high, "c", noisy) == (
        "a and c show no difference beyond noise: 0.37 ± 3.17 points (3 seeds)."
    )


def test_one_seed_makes_no_winner():
    assert comparison("a", {0: 2.0}, "b", {0: 1.5}, unit="ms", scale=1) == (
        "a is 0.50 ms above b (1 seed, so no interval)."
    )


def test_the_best_has_the_highest_mean():
    assert best_of({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.9}, "c": {0: 1.9}}) == "b"


def test_a_table_gives_numbers_by_path_and_leaves_out_rows_without_them():
    rows = (
        Row(cell=Cell(name="a", seed=1), result={"x": {"y": 2}}),
        Row(cell=Cell(name="a", seed=0), result={"x": {"y": None}}),
        Row(cell=Cell(name="b", seed=0), result={}),
    )
    table = Table(preset="quick", rows=rows)
    assert table.names == ("a", "b")
    assert table.seeds == (0, 1)
    assert table.values("a", "x.y") == {1: 2.0}
    assert table.values("b", "x.y") == {}
    assert [row.cell.seed for row in table.of("a")] == [0, 1]
