import math

import numpy as np
import pytest

from compress.prune.sensitivity import spearman
from compress.studies import Cell, Row, Table
from compress.studies.statistics import (
    best_of,
    comparison,
    corrected_correlation,
    estimate,
    gap_test,
    paired,
    permutation_test,
    t_quantile,
    unrelated_half,
)


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
    assert comparison("a", high, "b", low, is_less_better=True) == "a loses to b by 2.00 ± 0.25 points (3 seeds)."
    assert comparison("b", low, "a", high, where="at 2x") == "b loses to a by 2.00 ± 0.25 points at 2x (3 seeds)."
    noisy = {0: 0.890, 1: 0.912, 2: 0.890}
    assert comparison("a", high, "c", noisy) == ("a against c: not decided, 0.37 ± 3.17 points (3 seeds).")


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


def likeness(labels, near, far):
    return [[near if one == two else far for two in labels] for one in labels]


def test_few_labels_are_dealt_out_in_every_way():
    # 8! / 2!^4 = 2520 arrangements, of which 4! pair the same things: p = 24 / 2520
    labels = ["a", "b", "c", "d", "a", "b", "c", "d"]
    found = gap_test(labels, likeness(labels, 0.9, 0.1))
    assert (found.num, found.is_exact) == (2520, True)
    assert found.p == found.least == pytest.approx(1 / 105)
    assert found.is_significant
    assert found.text() == "p = 0.0095, all 2,520 arrangements"
    turned = gap_test(labels, likeness(labels, 0.1, 0.9))
    assert turned.p == 1.0
    assert not turned.is_significant


def test_with_four_things_nothing_can_be_significant():
    labels = ["a", "a", "b", "b"]
    found = gap_test(labels, likeness(labels, 1.0, 0.0))
    assert found.p == found.least == pytest.approx(1 / 3)
    assert not found.is_possible
    assert not found.is_significant


def test_many_labels_are_dealt_out_at_random_and_the_seed_says_how():
    labels = [name for name in "abcd" for _ in range(3)]
    found = gap_test(labels, likeness(labels, 0.9, 0.1))
    assert (found.num, found.is_exact) == (9999, False)
    # 1 of 15,400 groupings is as good
    assert found.p == pytest.approx(1e-4, abs=2.1e-4)
    assert found.least == pytest.approx(1e-4)
    noise = np.random.default_rng(5).normal(size=(12, 12))
    noise = (noise + noise.T).tolist()
    assert gap_test(labels, noise) == gap_test(labels, noise)
    assert gap_test(labels, noise).p > 0.01


def test_a_sample_of_arrangements_comes_near_to_all_of_them():
    values = dict(enumerate([0.3, 1.9, 0.2, 1.1, 0.4, 1.0, 0.9, 0.1]))
    labels = ["y", "x", "y", "x", "y", "x", "y", "x"]

    def total(dealt):
        return sum(values[k] for k, label in enumerate(dealt) if label == "x")

    exact = permutation_test(total, labels)
    assert (exact.num, exact.is_exact) == (70, True)
    by_hand = sum(
        sum(values[k] for k in chosen) >= 4.1 - 1e-9
        for chosen in ((a, b, c, d) for a in range(8) for b in range(a) for c in range(b) for d in range(c))
    )
    assert exact.p == by_hand / 70
    sampled = permutation_test(total, labels, num=69)
    assert not sampled.is_exact
    assert sampled.p == pytest.approx(exact.p, abs=0.12)


def test_p_values_of_noise_are_no_smaller_than_they_should_be():
    chance = np.random.default_rng(0)
    labels = ["a", "b", "a", "b", "a", "b"]
    found = []
    for _ in range(200):
        noise = chance.normal(size=(6, 6))
        found.append(gap_test(labels, (noise + noise.T).tolist()).p)
    for level in (0.1, 0.3, 0.5, 0.8):
        assert np.mean(np.array(found) <= level + 1e-9) == pytest.approx(level, abs=0.1)


def test_unrelated_orders_correlate_as_much_as_is_said():
    chance = np.random.default_rng(1)
    means = []
    for _ in range(400):
        orders = [chance.permutation(9) for _ in range(3)]
        means.append(np.mean([spearman(orders[i], orders[j]) for i, j in ((0, 1), (0, 2), (1, 2))]))
    inside = np.mean(np.abs(means) <= unrelated_half(9, 3))
    assert inside == pytest.approx(0.95, abs=0.03)
    assert unrelated_half(10) == pytest.approx(1.96 / 3, abs=1e-3)
    with pytest.raises(ValueError, match="1 items in 1 pairs"):
        unrelated_half(1)


def test_noise_is_taken_out_of_a_correlation():
    chance = np.random.default_rng(2)
    a = chance.normal(size=20_000)
    b = 0.7 * a + math.sqrt(1 - 0.7**2) * chance.normal(size=a.size)
    a1, a2 = (a + chance.normal(size=a.size) for _ in range(2))
    b1, b2 = (b + 0.5 * chance.normal(size=a.size) for _ in range(2))
    r_ab, r_aa, r_bb = (float(np.corrcoef(*pair)[0, 1]) for pair in ((a1, b1), (a1, a2), (b1, b2)))
    assert r_ab < 0.5
    assert corrected_correlation(r_ab, r_aa, r_bb) == pytest.approx(0.7, abs=0.02)
    assert corrected_correlation(0.3, 0.9, 0.0) is None
    assert corrected_correlation(0.3, 0.9, 0.3, least=0.3) is None
