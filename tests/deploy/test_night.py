"""What a night is made of, what counts as new, and which nights are remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy import night
from deploy.night import PROMOTED, UNCHANGED, changes_since, pinned_image, remember_night, tonight
from deploy.promote import CHALLENGER, CHAMPION
from deploy.step import state_path

IMAGE = "ghcr.io/secateur/secateur-python:0.1.0"
PASSED, REFUSED = [{"passed": True}], [{"passed": False}]


@pytest.fixture
def pins(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let `resolve` answer with values that the test changes, and open no run."""
    values = {"task": '{"digest": "d1"}', "teacher_ref": "train-1", "parent_run": "run", "data_digest": "d1"}

    def resolve(task: str, teacher: str, workspace: str, budgets: str, name: str, uri: str, run: str) -> dict[str, str]:
        path = state_path(workspace, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"parent_run": "run", "uri": uri, "verdict": "error"}))
        return dict(values)

    monkeypatch.setattr(night, "resolve", resolve)
    monkeypatch.delenv(night.IMAGE_DIGEST, raising=False)
    return values


def ask(folder: Path, run: str = "one", budgets: str = "[]", **changed: str) -> dict[str, Any]:
    given = {"task": "toy", "teacher": "", "workspace": str(folder), "run_name": "", "tracking_uri": ""}
    given |= {"train_config": "{}", "image": IMAGE, "model_name": "net"} | changed
    return tonight(given, budgets, run)


def end(folder: Path, run: str = "one", **facts: Any) -> None:
    state = json.loads(state_path(str(folder), run).read_text())
    remember_night(str(folder), state | {"verdict": "fail", "candidates": REFUSED} | facts)


def test_the_first_night_is_new_and_the_same_again_is_not(pins: Any, tmp_path: Path) -> None:
    first = ask(tmp_path)
    assert first["is_new"]
    assert first["changes"] == "the first night that ends with a verdict"
    end(tmp_path)
    second = ask(tmp_path, "two")
    assert not second["is_new"]
    assert "nothing to do, the champion stays" in second["changes"]
    assert json.loads(state_path(str(tmp_path), "two").read_text())["verdict"] == UNCHANGED


@pytest.mark.parametrize(
    ("pin", "given", "said"),
    [
        ({"teacher_ref": "train-2"}, {}, "teacher changed: train-1 -> train-2"),
        ({"task": '{"digest": "d2"}'}, {}, 'data changed: {"digest": "d1"} -> {"digest": "d2"}'),
        ({}, {"train_config": '{"epochs": 9}'}, "configuration changed"),
        ({}, {"budgets": '[{"name": "half"}]'}, "configuration changed"),
        ({}, {"image": f"{IMAGE}.1"}, "image changed"),
    ],
)
def test_each_thing_that_moves_is_named(pins: Any, tmp_path: Path, pin: Any, given: Any, said: str) -> None:
    ask(tmp_path)
    end(tmp_path)
    pins.update(pin)
    found = ask(tmp_path, "two", **given)
    assert found["is_new"]
    assert found["changes"].startswith(said)
    assert ";" not in found["changes"], "nothing else changed"


def test_new_source_is_new(pins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(tmp_path)
    end(tmp_path)
    monkeypatch.setattr(night, "request_key", lambda _: "edited")
    assert ask(tmp_path, "two")["changes"].startswith("code changed")


def test_nights_of_other_models_are_not_compared(pins: Any, tmp_path: Path) -> None:
    ask(tmp_path)
    end(tmp_path)
    assert ask(tmp_path, "two", model_name="other/net")["is_new"]


@pytest.mark.parametrize(
    ("facts", "is_kept"),
    [
        ({"candidates": REFUSED}, True),
        ({"candidates": PASSED, "promotion": {"promoted": True, "version": "3"}}, True),
        ({"candidates": PASSED, "promotion": {"promoted": False}}, False),
        ({"candidates": PASSED}, False),
    ],
)
def test_a_night_whose_promotion_failed_is_done_again(pins: Any, tmp_path: Path, facts: Any, is_kept: bool) -> None:
    ask(tmp_path)
    end(tmp_path, **facts)
    assert ask(tmp_path, "two")["is_new"] is not is_kept


def test_an_idle_night_does_not_become_the_last_one(pins: Any, tmp_path: Path) -> None:
    ask(tmp_path)
    end(tmp_path, verdict=UNCHANGED)
    assert ask(tmp_path, "two")["is_new"]


def test_runs_of_the_other_pipeline_are_no_nights(tmp_path: Path) -> None:
    remember_night(str(tmp_path), {"verdict": "pass", "candidates": REFUSED})
    assert list(tmp_path.iterdir()) == []


def test_an_image_is_pinned_by_the_digest_of_its_own_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    known = "ghcr.io/secateur/secateur-python@sha256:01"
    monkeypatch.setenv(night.IMAGE_DIGEST, known)
    assert pinned_image(IMAGE) == pinned_image("ghcr.io/secateur/secateur-python") == known
    assert pinned_image("net@sha256:02") == "net@sha256:02"
    assert pinned_image("") == ""
    monkeypatch.setenv(night.IMAGE_DIGEST, "localhost:5000/net@sha256:01")
    assert pinned_image("localhost:5000/net") == pinned_image("localhost:5000/net:1") == "localhost:5000/net@sha256:01"
    monkeypatch.delenv(night.IMAGE_DIGEST)
    assert pinned_image(IMAGE) == IMAGE


@pytest.mark.parametrize("known", ["registry.local/secateur@sha256:01", "sha256:01"])
def test_another_repositorys_digest_pins_nothing(pins: Any, tmp_path: Path, monkeypatch: Any, known: str) -> None:
    """Name and digest of two images would name one that does not exist."""
    monkeypatch.setenv(night.IMAGE_DIGEST, known)
    assert ask(tmp_path)["image"] == IMAGE


@pytest.mark.parametrize("teacher", ["models:/net@champion", "net@champion", "models:/net@challenger"])
def test_a_night_does_not_compress_what_nights_promote(pins: Any, tmp_path: Path, teacher: str) -> None:
    with pytest.raises(ValueError, match="compress the student of the night before"):
        ask(tmp_path, teacher=teacher)
    assert not list(tmp_path.iterdir()), "refused before any work is spent"


@pytest.mark.parametrize("teacher", ["models:/net@teacher", "models:/net-large@champion", "train-0123", ""])
def test_other_teachers_will_do(pins: Any, tmp_path: Path, teacher: str) -> None:
    assert ask(tmp_path, teacher=teacher)["is_new"]


def test_the_aliases_that_nights_move_are_those_of_a_promotion() -> None:
    assert set(PROMOTED) == {CHAMPION, CHALLENGER}


def test_names_that_look_alike_have_memories_of_their_own(pins: Any, tmp_path: Path) -> None:
    for run, name in (("one", "team/net"), ("two", "team-net")):
        assert ask(tmp_path, run, model_name=name)["is_new"]
        end(tmp_path, run)
    for run, name in (("three", "team/net"), ("four", "team-net")):
        assert not ask(tmp_path, run, model_name=name)["is_new"], name
    assert {path.parent.name for path in (tmp_path / "nights").iterdir()} == {"nights"}


def test_long_values_are_shortened() -> None:
    (said,) = changes_since({"data": "a" * 99}, {"data": "b" * 99})
    assert len(said) < 120
