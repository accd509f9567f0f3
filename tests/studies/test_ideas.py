import json
import re
import tomllib
from pathlib import Path

import pytest

from compress import catalogue
from studies import ideas
from tests.studies.folder import write_study

catalogue.load()
SOURCE = tomllib.loads(ideas.SOURCE.read_text())


def test_every_idea_has_a_part_and_a_title():
    assert {re.sub(r"\d", "", idea) for idea in SOURCE["ideas"]} == set(SOURCE["parts"])
    assert len(SOURCE["ideas"]) == 9 + 5 + 10 + 7 + 10 + 11 + 5 + 1 + 7
    assert all(title and "|" not in title for title in SOURCE["ideas"].values())


def test_what_makes_an_idea_real_exists():
    missing = [place for places in SOURCE["done_by"].values() for place in places if not (ideas.ROOT / place).exists()]
    assert missing == []
    assert set(SOURCE["done_by"]) <= set(SOURCE["ideas"])


def test_pieces_stand_behind_the_ideas_on_their_cards():
    found = ideas.pieces_by_idea()
    assert "*objective* `kurtosis`" in found["E5"]
    assert set(found) <= set(SOURCE["ideas"])


def test_the_page_has_a_row_for_every_idea(tmp_path):
    text = ideas.page(SOURCE, {"C9": ["*criterion* `taylor`"]}, {"C9": ["[0042](x): it wins."]})
    rows = [line for line in text.splitlines() if re.match(r"\| [A-Z]\d", line)]
    assert len(rows) == len(SOURCE["ideas"])
    (row,) = [row for row in rows if row.startswith("| C9 |")]
    assert row.endswith("| *criterion* `taylor` | [0042](x): it wins. |")
    assert {line.count("|") for line in rows} == {5}


def test_a_verdict_comes_from_the_most_telling_results(tmp_path):
    folder = write_study(tmp_path)
    root = folder.parent
    link = "[0042](../studies/0042-numbers/README.md)"
    assert ideas.verdicts_by_idea(root)["C9"] == [f"{link}: not run yet"]
    results = {"headline": "quick says so.", "ideas": {"C9": "of C9."}, "preset": "quick", "missing": []}
    (folder / "results").mkdir()
    (folder / "results" / "quick.json").write_text(json.dumps(results))
    found = ideas.verdicts_by_idea(root)
    assert found == {"C9": [f"{link}: of C9. (quick)"], "C3": [f"{link}: quick says so. (quick)"]}
    partial = {**results, "preset": "full", "headline": "full says so.", "ideas": {}, "missing": ["a@1"]}
    (folder / "results" / "full.json").write_text(json.dumps(partial))
    assert ideas.verdicts_by_idea(root)["C3"] == [f"{link}: quick says so. (quick)"]
    (folder / "results" / "full.json").write_text(json.dumps(partial | {"ideas": {"C9": "more of C9."}}))
    assert ideas.verdicts_by_idea(root)["C9"] == [f"{link}: more of C9. (full, not complete)"]
    (folder / "results" / "full.json").write_text(json.dumps(partial))
    (folder / "results" / "quick.json").write_text(json.dumps(results | {"ideas": {"C9": ""}}))
    assert ideas.verdicts_by_idea(root)["C9"] == [f"{link}: full says so. (full, not complete)"], "quick has no word"
    (folder / "results" / "full.json").write_text(json.dumps(partial | {"ideas": {"C9": ""}}))
    assert ideas.verdicts_by_idea(root)["C9"] == [f"{link}: not judged yet"]
    (folder / "results" / "full.json").write_text(json.dumps(partial | {"missing": []}))
    assert ideas.verdicts_by_idea(root)["C3"] == [f"{link}: full says so. (full)"]


def test_check_tells_an_old_page_from_a_new_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ideas, "TARGET", tmp_path / "ideas.md")
    assert ideas.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert ideas.main([]) == 0
    assert ideas.main(["--check"]) == 0
    (tmp_path / "ideas.md").write_text("old")
    assert ideas.main(["--check"]) == 1


def test_a_card_with_an_unknown_idea_is_refused(monkeypatch, tmp_path):
    short = tmp_path / "ideas.toml"
    short.write_text('[ideas]\nA1 = "one"\n')
    monkeypatch.setattr(ideas, "SOURCE", Path(short))
    with pytest.raises(ValueError, match=r"which .* has not"):
        ideas.pieces_by_idea()
