import pytest
import torch
from torch import nn

from compress.core.lineage import Lineage
from compress.core.model import Model
from compress.core.task import InputSpec
from compress.distill import Distiller
from compress.distill.features import caught, last_of_each_size, shapes_at
from compress.distill.losses import LOSSES
from compress.train.checkpoint import state_digest
from compress.train.fit import FitConfig, fit
from tests.toys import TOY_INPUT, toy_model, toy_task


def model_of(module, spec=TOY_INPUT):
    return Model(module.eval(), spec, Lineage(builder={"name": "toy"}, shape=spec.shape, num_classes=spec.num_classes))


def narrow_net(num_classes=3):
    stem = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU())
    return nn.Sequential(stem, nn.Conv2d(5, 6, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(96, num_classes))


def test_stage_ends_are_found_by_size():
    found = last_of_each_size(toy_model().module, TOY_INPUT.example())
    assert found == {(8, 8): "block", (4, 4): "bn2"}
    assert list(found) == [(8, 8), (4, 4)]


def test_no_hook_stays_behind():
    module = toy_model().module
    paths = tuple(last_of_each_size(module, TOY_INPUT.example()).values())
    shapes = shapes_at(module, paths, TOY_INPUT.example())
    assert shapes == {"block": (2, 8, 8, 8), "bn2": (2, 16, 4, 4)}
    with pytest.raises(ZeroDivisionError), caught(module, paths):
        raise ZeroDivisionError
    assert not any(part._forward_hooks for part in module.modules())


def test_logits_distiller_by_hand():
    student, teacher = toy_model(0), toy_model(1)
    x_BCHW, y_B = TOY_INPUT.example(4), torch.tensor([0, 1, 2, 0])
    loss = Distiller(LOSSES.bind("logits", hard_weight=0.0, temperature=1.0), student, teacher, seed=0)
    mine, theirs = student(x_BCHW).softmax(1), teacher(x_BCHW).softmax(1)
    wanted = (theirs * (theirs / mine).log()).sum(1).mean()
    found = loss(student.module.eval(), x_BCHW, y_B)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert list(loss.parameters()) == []


def test_hint_brings_the_student_to_the_teachers_channels():
    student, teacher = model_of(narrow_net()), toy_model(1)
    loss = Distiller(LOSSES.bind("hint"), student, teacher, seed=0)
    assert [(part.in_channels, part.out_channels) for part in loss.regressors] == [(5, 8), (6, 16)]
    again = Distiller(LOSSES.bind("hint"), student, teacher, seed=0)
    other = Distiller(LOSSES.bind("hint"), student, teacher, seed=1)
    assert state_digest(loss) == state_digest(again) != state_digest(other)


def test_the_teacher_stays_and_the_regressors_learn():
    student, teacher = model_of(narrow_net()), toy_model(1)
    loss = Distiller(LOSSES.bind("hint"), student, teacher, seed=0)
    before = state_digest(teacher.module), state_digest(loss.teacher), state_digest(loss)
    names = set(student.module.state_dict())
    fit(student.module, toy_task(), FitConfig(epochs=1, batch_size=16), scratch=None, what="distill", loss=loss)
    after = state_digest(teacher.module), state_digest(loss.teacher), state_digest(loss)
    assert before[:2] == after[:2]
    assert before[2] != after[2]
    assert set(student.module.state_dict()) == names
    assert not any(name.startswith("_teacher") for name in loss.state_dict())


def test_a_student_of_its_own_teacher_has_no_soft_loss():
    teacher = toy_model(1)
    loss = Distiller(LOSSES.bind("logits", hard_weight=0.0), teacher.copy(), teacher, seed=0)
    module = teacher.copy().module.eval()
    found = loss(module, TOY_INPUT.example(4), torch.zeros(4, dtype=torch.int64))
    assert found.item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_of_another_task_is_refused():
    spec = InputSpec(shape=(1, 8, 8), mean=(0.5,), std=(0.25,), class_names=("a", "b"))
    with pytest.raises(ValueError, match="choose a teacher made for the same task"):
        Distiller(LOSSES.bind("logits"), toy_model(), model_of(narrow_net(2), spec), seed=0)


def test_no_common_size_is_refused():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="use loss 'logits'"):
        Distiller(LOSSES.bind("hint"), model_of(flat), toy_model(), seed=0)


def test_an_interrupted_hint_distillation_ends_in_the_same_weights(tmp_path):
    task, config = toy_task(), FitConfig(epochs=3, batch_size=16, recipe="adamw_one_cycle")

    class Stops(Distiller):
        left = -1

        def forward(self, *batch):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return super().forward(*batch)

    def run(left, scratch):
        student = toy_model(0)
        loss = Stops(LOSSES.bind("hint"), student, toy_model(1), seed=0)
        loss.left = left
        fit(student.module, task, config, scratch=scratch, what="distill", loss=loss)
        return state_digest(student.module, loss)

    wanted = run(-1, None)
    with pytest.raises(KeyboardInterrupt):
        run(9, tmp_path)
    assert run(-1, tmp_path) == wanted
