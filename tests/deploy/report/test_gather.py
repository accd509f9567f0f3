"""From entries to the data of the page."""

from __future__ import annotations

import pytest

from deploy.report import final_metrics, gather, note_markdown, summary_rows, verdict_line
from deploy.report.gather import points_of
from tests.deploy.report.sample_run import Records, sample


def test_a_branch_is_found_from_its_evaluation_alone() -> None:
    store, refs = sample()
    data = gather(store, {"evaluate": refs["evaluate"], "gate": refs["gate"]})
    branch = data.branches[0]
    stages = [row.stage for row in branch.rows]
    assert stages == ["train", "search", "prune", "distill", "finetune_quant", "export", "cascade", "evaluate", "gate"]
    assert branch.label == "macs=0.24"
    assert branch.has_passed
    assert [point.kind for point in data.points] == ["teacher", "student", "int8", "cascade"]
    assert data.points[1].delta == pytest.approx(0.9865 - 0.003 * (1 / 0.24 - 4) - 0.9885)
    assert [cut.stage for cut in branch.cuts] == ["search", "prune"]
    assert data.task["name"] == "digits"
    assert data.machine["cores"] == 2


def test_deltas_are_against_the_stage_before_and_intervals_need_a_count() -> None:
    store, refs = sample()
    rows = {row.stage: row for row in gather(store, refs).branches[0].rows}
    assert rows["train"].delta is None
    assert rows["distill"].delta == pytest.approx(0.004)
    assert rows["prune"].steps[0] == ("after the cut", 0.41)
    low, high = rows["distill"].interval or (0, 0)
    assert low < (rows["distill"].accuracy or 0) < high
    del store.kept[refs["evaluate"][0]]["report"]["num_validation"]
    assert all(row.interval is None for row in gather(store, refs).branches[0].rows)
    assert gather(store, refs, num_validation=100).branches[0].rows[0].interval


def test_several_budgets_are_told_apart_and_the_fastest_that_passed_is_best() -> None:
    store, refs = sample((0.5, 0.24))
    data = gather(store, refs, labels={refs["evaluate"][0]: "half"})
    assert [branch.label for branch in data.branches] == ["half", "macs=0.24"]
    assert [point.label for point in data.points][:3] == ["Teacher", "Student half", "INT8 half"]
    assert data.best is data.branches[1]
    store.kept[refs["gate"][1]]["report"]["passed"] = False
    again = gather(store, refs)
    assert again.best is again.branches[0]
    assert "1 of 2" in verdict_line(again)


def test_the_best_is_the_promoted_one_or_has_the_largest_paired_speedup() -> None:
    store, refs = sample((0.5, 0.24))
    slow, fast = (store.record(ref)["report"] for ref in refs["evaluate"])
    slow["models"]["student"]["latency_ms"]["onnxruntime/b32"] = 0.001
    assert gather(store, refs).best is not None
    assert gather(store, refs).best.label == "macs=0.24"  # type: ignore[union-attr]
    for ref in refs["gate"]:
        del store.kept[ref]["report"]["checks"]
    assert gather(store, refs).best.label == "macs=0.24"  # type: ignore[union-attr]
    fast["ratios"]["student"]["latency/onnxruntime/b32"]["value"] = 1.01
    assert gather(store, refs).best.label == "macs=0.5"  # type: ignore[union-attr]
    promotion = {"promoted": True, "export": refs["export"][1], "name": "digits", "version": "1"}
    assert gather(store, refs, promotion=promotion).best.label == "macs=0.24"  # type: ignore[union-attr]


def test_the_note_lists_the_entries_of_every_branch() -> None:
    store, refs = sample((0.5, 0.24))
    note = note_markdown(gather(store, refs))
    entries = note.partition("### Entries")[2]
    assert "**macs=0.24**" in entries
    for ref in ("train-00", "prune-0a", "prune-1a", "cascade-1a", "gate-0a"):
        assert f"- {ref.partition('-')[0]}: `{ref}`" in entries, ref
    assert "secateur.ref" in entries


def test_the_same_budget_twice_gets_two_names() -> None:
    store, refs = sample((0.5, 0.5))
    assert [branch.label for branch in gather(store, refs).branches] == ["macs=0.5 (1)", "macs=0.5 (2)"]


def test_what_is_missing_is_named_and_the_rest_is_shown() -> None:
    store = Records()
    store.add("train-0", {}, {}, {"validation_accuracy": 0.9})
    data = gather(store, {"train": ["train-0"], "gate": ["gate-gone", ""]})
    assert data.missing == ["gate-gone"]
    assert data.teacher is None
    assert data.points == []
    assert data.latency_keys == []
    assert data.branches[0].has_passed is None
    assert "not reached" in verdict_line(data)
    assert "Nothing was evaluated" in note_markdown(data)
    assert final_metrics(data) == {}


def test_nothing_at_all_is_no_error() -> None:
    data = gather(Records(), {})
    assert data.branches == []
    assert data.best is None


def test_the_note_holds_table_verdict_and_how_to_pull() -> None:
    store, refs = sample(is_passed=False)
    data = gather(store, refs, pull={"secateur": "pull it"}, title="a | b <c>")
    note = note_markdown(data)
    assert "| Student | 98.60\u202f% |" in note
    assert "did not pass" in note
    assert "breaks the limit" in note
    assert "```sh\npull it\n```" in note
    assert "a \\| b &lt;c>" in note


def test_final_metrics_have_plain_names_for_the_best_and_own_names_for_each() -> None:
    store, refs = sample((0.5, 0.24))
    numbers = final_metrics(gather(store, refs))
    assert numbers["ratio/macs"] == numbers["macs_0.24/ratio/macs"] == pytest.approx(1 / 0.24)
    assert numbers["macs_0.5/ratio/macs"] == pytest.approx(2.0)
    assert numbers["gate/passed"] == 1.0
    assert 0 < numbers["cascade/share_small"] < 1
    assert [key for key in numbers if "teacher/" in key] == [key for key in numbers if key.startswith("teacher/")] != []


def test_summary_rows_are_in_the_columns_of_the_header() -> None:
    store, refs = sample()
    rows = summary_rows(gather(store, refs).points, "onnxruntime/b32")
    assert rows[0][0] == "Teacher"
    assert rows[0][-1] == ""
    assert rows[1][-1].startswith("1.85× (1.80")


def test_points_of_any_other_report_are_none() -> None:
    assert points_of({"validation_accuracy": 1.0}) == []
