"""The chart's README says what values.yaml says, and its example renders."""

import re
from pathlib import Path

import pytest
import yaml

from charts import readme
from tests.charts.rendering import CHART, render


def test_committed_readme_is_not_stale():
    assert (CHART / "README.md").read_text() == readme.readme(CHART)
    assert readme.main(["--check"]) == 0


def test_every_value_is_explained():
    found = readme.entries(CHART)
    assert len(found) > 90
    assert all(entry.text.endswith(".") for entry in found)
    assert len({entry.path for entry in found}) == len(found)


def test_the_example_of_the_readme_renders():
    example = re.search(r"```yaml\n(# my-values.yaml.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    assert example is not None
    values = yaml.safe_load(example[1])
    values["image"]["digest"] = "sha256:" + "0" * 64
    rendered = render(values)
    assert rendered.of("Job", "schedule-apply")
    assert rendered.of("PersistentVolumeClaim", "secateur-workspace")


def test_objects_of_the_readme_are_those_that_the_chart_makes():
    from tests.charts.rendering import combinations

    rendered = [render(values) for values in combinations().values()]
    kinds = {one["kind"] for each in rendered for one in each.ours}
    text = (CHART / "README.md").read_text()
    assert [kind for kind in kinds if kind not in text] == []
    for job in {one["metadata"]["name"] for each in rendered for one in each.of("Job")}:
        assert f"…-{re.sub(r'^.*?(?=upload-|schedule-)', '', job)}" in text, job


def chart_with(tmp_path: Path, values: str, text: str = f"# x\n\n{readme.BEGIN}\n{readme.END}\n") -> Path:
    (tmp_path / "Chart.yaml").write_text("name: toy\n")
    (tmp_path / "values.yaml").write_text(values)
    (tmp_path / "README.md").write_text(text)
    return tmp_path


def test_table_of_a_small_chart(tmp_path):
    chart = chart_with(
        tmp_path,
        "# Not documentation.\n# -- First,\n# on two lines.\na: 1\nb:\n  # -- A | list.\n  c: [x]\n  # -- Deep.\n"
        "  # @default -- see there\n  d:\n    e: null\n# -- Last.\nf: true\n",
    )
    assert readme.table(chart).splitlines()[2:] == [
        "| `a` | int | `1` | First, on two lines. |",
        '| `b.c` | list | `["x"]` | A \\| list. |',
        "| `b.d` | object | see there | Deep. |",
        "| `f` | bool | `true` | Last. |",
    ]


def test_a_value_without_a_comment_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"b\.c has no comment; write"):
        readme.table(chart_with(tmp_path, "# -- A.\na: 1\nb:\n  c: 2\n"))


def test_a_comment_without_a_value_is_refused(tmp_path):
    with pytest.raises(ValueError, match="which is no key: move it"):
        readme.table(chart_with(tmp_path, "a:\n  # -- Lost.\n  - x\n"))


def test_a_readme_without_a_place_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no place for the table"):
        readme.readme(chart_with(tmp_path, "# -- A.\na: 1\n", "# nothing\n"))


def test_stale_readmes_are_named_and_written(tmp_path, monkeypatch, capsys):
    chart = tmp_path / "toy"
    chart.mkdir()
    chart_with(chart, "# -- A.\na: 1\n")
    monkeypatch.setattr(readme, "FOLDER", tmp_path)
    assert readme.main(["--check"]) == 1
    assert "READMEs of toy are not what values.yaml says" in capsys.readouterr().out
    assert readme.main([]) == 0
    assert readme.main(["--check"]) == 0
    assert "| `a` | int | `1` | A. |" in (chart / "README.md").read_text()
