import json
from functools import cache

import pytest

from compress.core.stage import STAGES, Entry, StageCall
from compress.stages.finetune_quant import FinetuneQuantConfig, finetune_quant
from compress.train.checkpoint import state_digest
from compress.train.fit import FitConfig, fit
from compress.train.objectives.kurtosis import layer_kurtosis
from compress.train.scoring import accuracy
from tests.toys import toy_model, toy_task


@cache
def trained():
    model = toy_model(3)
    fit(model.module, toy_task(), FitConfig(epochs=4, batch_size=16), scratch=None, what="train")
    return model


def call(scratch, roles=("model",), **options):
    config = FinetuneQuantConfig(**{"epochs": 4, "batch_size": 16, "preview_bits": (8, 2), **options})
    parents = {role: Entry.of(trained(), role) for role in roles}
    return StageCall(config=config, parents=parents, scratch=scratch, optional_task=toy_task())


@pytest.mark.parametrize("roles", [("model",), ("model", "teacher")])
def test_kurtosis_falls_towards_the_target(tmp_path, roles):
    before = state_digest(trained().module)
    result = finetune_quant(call(tmp_path, roles))
    pairs = result.report["kurtosis"]
    assert set(pairs) == set(layer_kurtosis(trained().module))
    assert sum((after - 1.8) ** 2 for _, after in pairs.values()) < sum((old - 1.8) ** 2 for old, _ in pairs.values())
    assert result.report["has_teacher"] == ("teacher" in roles)
    assert state_digest(trained().module) == before


def test_report(tmp_path):
    result = finetune_quant(call(tmp_path))
    report = result.report
    assert report["validation_accuracy"] == accuracy(result.model.module, toy_task(), "validation")
    assert report["validation_accuracy_before"] == accuracy(trained().module, toy_task(), "validation")
    assert [row["bits"] for row in report["robustness"]] == [8, 2]
    assert abs(report["robustness"][0]["before"] - report["validation_accuracy_before"]) < 0.05
    assert report["best_epoch"] == report["num_epochs"] == 4
    assert report["cost"]["params"] == 2507
    assert json.loads(json.dumps(report)) == report
    assert result.model.lineage.steps[-1].stage == "finetune_quant"


def test_the_objective_changes_the_weights(tmp_path):
    light, strong = (
        finetune_quant(call(tmp_path / str(weight), epochs=1, objective={"name": "kurtosis", "weight": weight}))
        for weight in (0.0, 5.0)
    )
    assert state_digest(light.model.module) != state_digest(strong.model.module)


def test_card():
    card = STAGES["finetune_quant"]
    assert (card.extra["roles"], card.extra["optional_roles"]) == (("model",), ("teacher",))
    assert FinetuneQuantConfig().as_json() == {}
