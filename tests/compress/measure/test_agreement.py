import numpy as np

from compress.measure.agreement import agreement

EXPECTED_BC = np.array([[0.0, 1.0], [2.0, 0.0], [3.0, 1.0], [0.0, 4.0]])


def test_by_hand():
    found_BC = EXPECTED_BC + np.array([[0.5, 0.0], [0.0, 2.25], [0.0, 0.0], [-1.0, 0.0]])
    found = agreement(EXPECTED_BC, found_BC)
    assert (found.max_abs, found.top1_agree) == (2.25, 0.75)
    assert found.as_json() == {"max_abs": 2.25, "top1_agree": 0.75}


def test_not_a_number_is_infinitely_far():
    found_BC = EXPECTED_BC.copy()
    found_BC[1, 1] = np.nan
    assert agreement(EXPECTED_BC, found_BC).max_abs == float("inf")
