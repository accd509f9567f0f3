"""What is committed of every study agrees with its code."""

import json
import re
from pathlib import Path

import pytest

from compress import catalogue
from compress.studies.finder import find_study, study_names
from compress.studies.record import figures_of, last_date, records_of, results_path, section_of, table_of
from studies.ideas import SOURCE, STUDIES

catalogue.load()
NAMES = study_names(STUDIES)
RESULTS = [(name, path.stem) for name in NAMES for path in sorted((STUDIES / name / "results").glob("*.json"))]


def test_there_are_studies():
    assert len(NAMES) >= 2
    assert len({name[:4] for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_study_has_a_protocol_and_both_presets(name):
    found = find_study(STUDIES, name)
    readme = (found.folder / "README.md").read_text()
    assert readme.startswith(f"# {found.number}: {found.study.title}\n")
    for part in ("Question", "Protocol", "Baseline", "Run it", "Verdict"):
        assert f"**{part}.**" in readme
    assert {"quick", "full"} <= set(found.study.presets)
    for preset in found.study.presets:
        cells = found.study.cells(preset)
        assert cells
        assert len(set(found.study.keys(preset).values())) == len(cells)
    assert len({cell.seed for cell in found.study.cells("full")}) >= 3
    assert all(re.search(rf'^{idea} = "', SOURCE.read_text(), re.MULTILINE) for idea in found.study.ideas)


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_can_be_written_whatever_is_there(name):
    found = find_study(STUDIES, name)
    for preset in found.study.presets:
        table = table_of(found, preset, {})
        assert found.study.conclude(table).headline
        assert found.study.figures(table) is not None


@pytest.mark.parametrize(("name", "preset"), RESULTS)
def test_the_readme_says_what_the_numbers_say(name, preset):
    found = find_study(STUDIES, name)
    records = records_of(found, preset, None)
    content = json.loads(results_path(found, preset).read_text())
    assert len(records) == len(content["cells"]), "settings changed: measure again"
    table = table_of(found, preset, records)
    verdict = found.study.conclude(table)
    assert verdict.headline == content["headline"]
    figures = figures_of(found, table)
    section = section_of(table, verdict, last_date(records), sorted(figures))
    assert section in (found.folder / "README.md").read_text()
    for figure, svg in figures.items():
        assert (found.folder / "results" / f"{preset}-{figure}.svg").read_text() == f"{svg}\n"


def test_results_are_small_and_name_no_place_of_a_machine():
    paths = [path for path in Path(STUDIES).rglob("results/*") if path.is_file()]
    for path in paths:
        assert path.stat().st_size < 400_000, path
        assert not re.search(r"/(home|root|work|tmp|Users)/", path.read_text()), path
