import json
import os
import signal
import subprocess
import sys
import time

import pytest

from compress.core.registry import UnknownName
from compress.studies.finder import find_study, studies_root
from compress.studies.record import publish, records_of, state_of
from compress.studies.runner import keep_cell, read_cell, run_cells
from tests.studies.folder import write_study


@pytest.fixture
def found(tmp_path, monkeypatch):
    write_study(tmp_path)
    monkeypatch.setenv("STUDY_LOG", str(tmp_path / "log"))
    monkeypatch.chdir(tmp_path)
    return find_study(studies_root(), "42")


@pytest.fixture
def ran(tmp_path):
    return lambda: (tmp_path / "log").read_text().split()


def test_a_study_is_found_by_number_name_and_part_of_it(found):
    root = found.folder.parent
    assert {find_study(root, name).name for name in ("42", "0042", "numbers", "0042-numbers")} == {"0042-numbers"}
    with pytest.raises(UnknownName, match="Did you mean '0042-numbers'"):
        find_study(root, "0042-number")


def test_every_cell_runs_once_and_sees_the_one_it_comes_after(found, ran, tmp_path):
    progress = run_cells(found, "quick", tmp_path / "w")
    assert progress.is_complete
    assert progress.done == ("small@0", "small@1", "large@0", "large@1")
    assert run_cells(found, "quick", tmp_path / "w").is_complete
    assert ran() == ["small@0", "small@1", "large@0", "large@1"]
    assert records_of(found, "quick", tmp_path / "w")["large@1"]["result"] == {"value": 0.031, "earlier": 0.03}
    assert not list((tmp_path / "w" / "0042-numbers" / "scratch").iterdir())


def test_presets_share_cells(found, ran, tmp_path):
    run_cells(found, "quick", tmp_path / "w")
    run_cells(found, "full", tmp_path / "w")
    assert ran()[4:] == ["huge@0"]


def test_only_takes_patterns_of_names_and_labels(found, ran, tmp_path):
    progress = run_cells(found, "quick", tmp_path / "w", only=["s*", "large@0"])
    assert not progress.is_complete
    assert ran() == ["small@0", "small@1", "large@0"]
    with pytest.raises(UnknownName, match="Did you mean 'large'"):
        run_cells(found, "quick", tmp_path / "w", only=["lrge"])


def test_a_cell_without_its_predecessor_says_so(found, tmp_path):
    progress = run_cells(found, "quick", tmp_path / "w", only=["large@1"])
    assert "comes after large@0" in progress.failed["large@1"]


def test_a_failure_is_told_and_the_others_still_run(found, ran, tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_FAIL", "small@0")
    progress = run_cells(found, "quick", tmp_path / "w")
    assert progress.failed["small@0"] == "RuntimeError: no luck"
    assert progress.done == ("large@0", "large@1")
    monkeypatch.delenv("STUDY_FAIL")
    assert run_cells(found, "quick", tmp_path / "w").is_complete
    assert ran().count("large@0") == 1


def test_other_data_and_other_settings_are_measured_anew(found, ran, tmp_path, monkeypatch):
    run_cells(found, "quick", tmp_path / "w")
    monkeypatch.setenv("STUDY_DATA", "2")
    run_cells(found, "quick", tmp_path / "w")
    assert len(ran()) == 8
    source = (found.folder / "study.py").read_text().replace('("small", 1)', '("small", 20)')
    (found.folder / "study.py").write_text(source)
    again = find_study(found.folder.parent, "42")
    assert again.study.keys("quick")["small@1"] != found.study.keys("quick")["small@1"]
    run_cells(again, "quick", tmp_path / "w")
    assert ran()[8:] == ["small@0", "small@1"]


def test_what_came_after_another_result_is_measured_anew(found, ran, tmp_path):
    """large@1 comes after large@0: when that is measured again and gives another number, so is large@1."""
    run_cells(found, "quick", tmp_path / "w")
    first = records_of(found, "quick", tmp_path / "w")["large@0"]
    cell = next(cell for cell in found.study.cells("quick") if cell.label == "large@0")
    keep_cell(tmp_path / "w" / found.name, cell, first | {"result": {"value": 0.5}})
    assert set(records_of(found, "quick", tmp_path / "w")) == {"small@0", "small@1", "large@0"}
    run_cells(found, "quick", tmp_path / "w")
    assert ran()[4:] == ["large@1"]
    assert records_of(found, "quick", tmp_path / "w")["large@1"]["result"]["earlier"] == 0.5


def test_a_slice_of_time_ends_and_the_next_one_goes_on(found, ran, tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_SLEEP", "0.4")
    progress = run_cells(found, "quick", tmp_path / "w", slice_s=0.6)
    assert progress.is_slice_over
    assert progress.done == ("small@0",)
    assert run_cells(found, "quick", tmp_path / "w").is_complete
    record = records_of(found, "quick", tmp_path / "w")["small@1"]
    assert record["seconds"] >= 0.5, "the time before the interruption counts"
    assert ran() == ["small@0", "small@1", "small@1", "large@0", "large@1"]
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_two_runs_do_not_share_a_workspace(found, tmp_path, monkeypatch):
    code = (
        "from pathlib import Path; from compress.studies.finder import find_study, studies_root; "
        "from compress.studies.runner import run_cells; "
        "run_cells(find_study(studies_root(), '42'), 'quick', Path('w').absolute())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "STUDY_SLEEP": "30"})
    try:
        log, start = tmp_path / "log", time.monotonic()
        while not log.is_file() and time.monotonic() - start < 60:
            time.sleep(0.05)
        with pytest.raises(ValueError, match="another run is using"):
            run_cells(found, "quick", tmp_path / "w")
    finally:
        process.kill()
        process.wait()
    assert run_cells(found, "quick", tmp_path / "w").is_complete, "a killed run leaves no lock"


def test_results_figures_and_verdict_are_written(found, tmp_path):
    run_cells(found, "quick", tmp_path / "w")
    verdict = publish(found, "quick", tmp_path / "w")
    assert verdict.headline == "large beats small by 2.00 ± 0.00 points (2 seeds)."
    results = json.loads((found.folder / "results" / "quick.json").read_text())
    assert results["headline"] == verdict.headline
    assert results["seeds"] == [0, 1]
    assert results["data"] == {"numbers": "1"}
    assert results["missing"] == []
    assert len(results["origins"]) == 1
    assert {"torch", "python"} <= set(results["origins"][0]["versions"])
    assert results["origins"][0]["machine"]["cores"] >= 1
    assert [cell["origin"] for cell in results["cells"]] == [0, 0, 0, 0]
    assert (found.folder / "results" / "quick-dots.svg").read_text() == "<svg>4</svg>\n"
    readme = (found.folder / "README.md").read_text()
    assert "**large beats small by 2.00 ± 0.00 points (2 seeds).** (quick, 4 of 4 cells, seeds 0, 1, " in readme
    assert "old" not in readme
    assert readme.endswith("behind\n")


def test_a_verdict_is_written_again_from_the_committed_results_alone(found, tmp_path):
    run_cells(found, "quick", tmp_path / "w")
    publish(found, "quick", tmp_path / "w")
    before = {path.name: path.read_text() for path in found.folder.rglob("*.*") if path.suffix != ".pyc"}
    publish(found, "quick", None)
    assert before == {path.name: path.read_text() for path in found.folder.rglob("*.*") if path.suffix != ".pyc"}


def test_a_part_can_be_written_down_and_says_what_is_missing(found, tmp_path):
    with pytest.raises(ValueError, match="no cell of 0042-numbers quick is measured"):
        publish(found, "quick", tmp_path / "w")
    run_cells(found, "quick", tmp_path / "w", only=["small"])
    publish(found, "quick", tmp_path / "w")
    assert "- Not measured yet: large@0, large@1." in (found.folder / "README.md").read_text()
    assert state_of(found, "quick", None).done == 2
    assert state_of(found, "full", tmp_path / "w").total == 5


def test_a_cell_leaves_no_half_written_record(found, tmp_path):
    run_cells(found, "quick", tmp_path / "w", only=["small@0"])
    cell = found.study.cells("quick")[0]
    assert read_cell(tmp_path / "w" / found.name, cell, found.study.keys("quick")["small@0"])["result"]["value"] == 0.01
    assert read_cell(tmp_path / "w" / found.name, cell, "0" * 16) is None
