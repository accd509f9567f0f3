"""Presets are read, checked, and hold configurations that the stages accept."""

import json

import pytest

from pipelines import preset


@pytest.mark.parametrize("name", preset.names())
def test_stages_accept_every_configuration(name):
    from compress import catalogue
    from compress.core.registry import FAMILIES
    from compress.core.stage import STAGES

    catalogue.load()
    given = preset.arguments(preset.load(name))
    FAMILIES["task"].from_json(given["task"])
    STAGES["train"].extra["config"].from_json(given["train_config"])
    for budget in given["budgets"]:
        for stage in preset.STAGES:
            if budget[stage] != "off":
                STAGES[stage].extra["config"].from_json(budget[stage])


@pytest.mark.parametrize("name", preset.names())
def test_labels_differ_and_texts_stay_below_the_limit_of_kubeflow(name):
    budgets = preset.arguments(preset.load(name))["budgets"]
    assert len({budget["name"] for budget in budgets}) == len(budgets)
    assert len(json.dumps(budgets)) < 10_000


def test_a_misspelt_preset_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        preset.load("digit")


def test_a_misspelt_key_is_answered_with_the_nearest(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"task": "toy", "budgets": [{"name": "half", "prun": {}}]}))
    with pytest.raises(ValueError, match=r"budget 'half': unknown key 'prun'\. Did you mean 'prune'"):
        preset.load(str(path))
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        preset.load(str(path))


def test_off_and_names_stay_texts():
    given = preset.arguments({"task": "toy", "budgets": [{"name": "half", "search": "off", "gate": {"b": 1, "a": 2}}]})
    assert given["task"] == "toy"
    assert given["train_config"] == "{}"
    assert given["budgets"][0]["search"] == "off"
    assert given["budgets"][0]["gate"] == '{"a": 2, "b": 1}'
    assert given["budgets"][0]["name"] == "half"
