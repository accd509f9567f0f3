import json

import pytest

from compress.core.journal import Journal


def refuse():
    raise AssertionError("known already")


def test_what_is_known_is_not_found_out_again(tmp_path):
    journal = Journal(tmp_path / "trials.jsonl")
    assert journal.get("accuracy", "a", lambda: 0.1 + 0.2) == 0.1 + 0.2
    assert journal.get("accuracy", "a", refuse) == 0.1 + 0.2
    assert journal.get("latency", "a", lambda: {"ratio": 0.5}) == {"ratio": 0.5}
    again = Journal(tmp_path / "trials.jsonl")
    assert len(again) == 2
    assert again.get("accuracy", "a", refuse) == 0.1 + 0.2
    assert (journal.num_new, again.num_new) == (2, 0)


def test_a_line_cut_short_by_a_kill_is_forgotten_and_overwritten(tmp_path):
    path = tmp_path / "trials.jsonl"
    Journal(path).get("accuracy", "a", lambda: 1.0)
    with path.open("a") as file:
        file.write('{"what": "accuracy", "key": "b", "val')
    again = Journal(path)
    assert len(again) == 1
    assert again.get("accuracy", "b", lambda: 0.25) == 0.25
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_nothing_is_written_when_finding_out_fails(tmp_path):
    journal = Journal(tmp_path / "trials.jsonl")
    with pytest.raises(AssertionError):
        journal.get("accuracy", "a", refuse)
    assert len(Journal(tmp_path / "trials.jsonl")) == 0
