import pytest

from compress.core.budget import Budget, Cost, Infeasible, RelativeBudget


def test_a_budget_admits_up_to_its_limit():
    budget = Budget(macs=100, params=10)
    assert budget.admits(Cost(macs=100, params=10))
    assert not budget.admits(Cost(macs=101, params=10))
    assert not budget.admits(Cost(macs=100, params=11))


def test_limiting_what_was_not_measured_is_an_error():
    with pytest.raises(ValueError, match="latency_ms is limited to 5 but was not measured"):
        Budget(latency_ms=5).admits(Cost(macs=1))


def test_a_relative_budget_becomes_numbers_in_one_place():
    assert Budget.relative(macs=0.5, params=0.25).of(Cost(macs=1000, params=80)).limits == {"params": 20, "macs": 500}


def test_a_relative_budget_needs_the_reference_measured():
    with pytest.raises(ValueError, match="size_bytes of the reference was not measured"):
        Budget.relative(size_bytes=0.5).of(Cost(macs=1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mac=0.5", "Did you mean 'macs'"),
        ("0.5", "say of what, for example macs=0.5"),
        ("macs=much", "write macs=NUMBER"),
        ("macs=1.5", "lies in"),
        ("macs=0", "lies in"),
        ("", "limits nothing"),
    ],
)
def test_budget_texts_that_make_no_sense(text, message):
    with pytest.raises(ValueError, match=message):
        RelativeBudget.parse(text)


def test_budget_text_with_two_quantities():
    assert RelativeBudget.parse(" macs=0.5, latency_ms=0.6 ") == RelativeBudget(macs=0.5, latency_ms=0.6)


def test_a_limit_lies_above_zero():
    with pytest.raises(ValueError, match="above 0"):
        Budget(macs=0)


def test_infeasible_says_the_smallest_reachable_cost():
    error = Infeasible("macs", 10, 25)
    assert error.smallest == 25
    assert "smallest reachable is 25" in str(error)


def test_cost_json_leaves_out_what_was_not_measured():
    assert Cost(macs=5, latency_ms=1.5, runtime="torch").as_json() == {"macs": 5, "latency_ms": 1.5, "runtime": "torch"}
