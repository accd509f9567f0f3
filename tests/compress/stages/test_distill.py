import json
from functools import cache

import pytest
import torch

from compress.core.lineage import Lineage
from compress.core.model import Model
from compress.core.stage import STAGES, Entry, StageCall
from compress.stages.distill import DistillConfig, distill
from compress.train.checkpoint import state_digest
from compress.train.fit import FitConfig, fit
from compress.train.scoring import accuracy
from tests.toys import TOY_INPUT, ToyNet, toy_entry, toy_model, toy_task


@cache
def teacher():
    model = toy_model(3)
    fit(model.module, toy_task(), FitConfig(epochs=4, batch_size=16), scratch=None, what="teacher")
    return model


def call(scratch, **options):
    config = DistillConfig(**{"epochs": 4, "batch_size": 16, "recipe": "sgd_cosine", **options})
    parents = {"model": toy_entry(), "teacher": Entry.of(teacher(), "teacher")}
    return StageCall(config=config, parents=parents, scratch=scratch, optional_task=toy_task())


@pytest.mark.parametrize("loss", ["logits", "hint"])
def test_the_student_learns_from_the_teacher(tmp_path, loss):
    work = call(tmp_path, loss={"name": loss, "hard_weight": 0.0})
    before = state_digest(work.parents["model"].model.module), state_digest(teacher().module)
    result = distill(work)
    assert result.report["validation_accuracy"] == accuracy(result.model.module, toy_task(), "validation")
    assert result.report["validation_accuracy"] > max(0.7, result.report["validation_accuracy_before"])
    assert result.report["teacher_validation_accuracy"] > 0.9
    assert (state_digest(work.parents["model"].model.module), state_digest(teacher().module)) == before
    assert json.loads(json.dumps(result.report)) == result.report


def test_the_student_keeps_its_structure(tmp_path):
    result = distill(call(tmp_path / "scratch", epochs=1, loss="hint"))
    assert set(result.model.module.state_dict()) == set(toy_model().module.state_dict())
    assert result.model.lineage.steps[-1].stage == "distill"
    assert result.report["cost"]["params"] == 2507
    result.model.save(tmp_path / "model")
    assert state_digest(Model.load(tmp_path / "model").module) == state_digest(result.model.module)


def test_student_batch_norm_learns_while_the_teachers_stays(tmp_path):
    before = teacher().module.bn1.running_mean.clone()
    result = distill(call(tmp_path, epochs=1))
    assert not torch.equal(result.model.module.bn1.running_mean, toy_model().module.bn1.running_mean)
    assert torch.equal(teacher().module.bn1.running_mean, before)


def test_a_teacher_of_another_task_is_refused(tmp_path):
    lineage = Lineage(builder={"name": "toy"}, shape=(1, 8, 8), num_classes=2)
    spec = type(TOY_INPUT)(shape=(1, 8, 8), mean=(0.5,), std=(0.25,), class_names=("a", "b"))
    work = call(tmp_path)
    parents = {**work.parents, "teacher": Entry.of(Model(ToyNet(1, 2), spec, lineage))}
    with pytest.raises(ValueError, match="2 classes"):
        distill(StageCall(config=work.config, parents=parents, scratch=tmp_path, optional_task=work.task))


def test_card():
    card = STAGES["distill"]
    assert (card.extra["config"], card.extra["roles"]) == (DistillConfig, ("model", "teacher"))
    assert DistillConfig().as_json() == {}
    assert DistillConfig(loss="hint").as_json() == {"loss": {"name": "hint"}}
