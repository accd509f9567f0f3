import pytest
import torch

from compress import catalogue
from compress.core.model import BUILDERS, Model
from compress.run import import_model, run_stage, task_of
from compress.store import LocalStore
from studies import paced_cuts
from studies.paced_cuts import judged_by, loss_after_cut
from tests.studies.tiny import DIGITS

catalogue.load()
GROUP = "layer2.0.conv1"
PACE = {"ratio": 0.25, "steps": 8, "batch_size": 32, "precision": "float32", "rate": 0.01, "recalibrate_batches": 2}


@pytest.fixture(scope="module")
def task():
    return task_of(DIGITS["task"])


@pytest.fixture(scope="module")
def model(task):
    return Model.build(BUILDERS.from_json(DIGITS["builder"]), task.input, seed=1)


@pytest.fixture
def fits(monkeypatch):
    """Notes what each part of the training is given, and trains nothing."""
    seen = []

    def note(module, task, config, *, scratch, what):
        width = module.get_submodule(GROUP).out_channels
        seen.append({"seed": config.seed, "steps": config.max_steps, "width": width, "what": what})

    monkeypatch.setattr(paced_cuts, "fit", note)
    return seen


def test_a_task_is_judged_by_its_first_images_alone(task):
    short = judged_by(task, 10)
    assert torch.equal(short.split("validation").labels_B, task.split("validation").labels_B[:10])
    first = next(iter(task.batches("validation", batch_size=10)))
    found = list(short.batches("validation", batch_size=64))
    assert len(found) == 1
    assert torch.equal(found[0][0], first[0])
    assert len(short.split("train")) == len(task.split("train"))
    assert judged_by(task, 0) is task


def test_every_part_of_a_slow_cut_has_images_of_its_own_and_equal_steps(model, task, fits, tmp_path):
    settings = {"seed": 3, "scratch": tmp_path, "group": GROUP}
    loss_after_cut(model.module, task, PACE, **settings, num_cuts=1)
    loss_after_cut(model.module, task, PACE, **settings, num_cuts=4)
    at_once, *slow = fits
    assert (at_once["seed"], at_once["steps"], at_once["width"]) == (3, 8, 4)
    assert slow[0]["seed"] == 3
    assert len({part["seed"] for part in slow}) == 4
    assert [part["steps"] for part in slow] == [2, 2, 2, 2]
    assert [part["width"] for part in slow] == [13, 10, 7, 4]
    assert model.module.get_submodule(GROUP).out_channels == 16


def test_without_training_the_cut_is_that_of_the_curve(model, task, fits, tmp_path):
    store = LocalStore(tmp_path / "store")
    curves = {"criterion": "magnitude", "compensation": "none", "ratios": [0.25], "recalibrate_batches": 2}
    curves |= {"batch_size": 32, "validation_limit": 40, "seed": 3}
    report = run_stage("sensitivity", curves, {"model": import_model(model, store)}, task, store).entry.report
    expected = {curve["group"]: curve["losses"] for curve in report["curves"]}
    short = judged_by(task, 40)
    settings = {"seed": 3, "scratch": tmp_path, "num_cuts": 1}
    cut = loss_after_cut(model.module, short, PACE, **settings, group=GROUP)
    whole = loss_after_cut(model.module, short, PACE, **settings, group="")
    assert cut == pytest.approx(expected[GROUP][1], rel=1e-5)
    assert abs(cut - expected["layer1.0.conv1"][1]) > 1e-4
    logits_NC, labels_N = paced_cuts.logits_of(model.module, short, "validation")
    assert whole == pytest.approx(float(task.loss(logits_NC, labels_N)))


def test_training_lowers_the_loss(model, task, tmp_path):
    few, many = (
        loss_after_cut(model.module, task, {**PACE, "steps": steps}, seed=0, scratch=tmp_path, group=GROUP, num_cuts=2)
        for steps in (2, 24)
    )
    assert many < few


def test_fewer_steps_than_cuts_are_refused(model, task, tmp_path):
    with pytest.raises(ValueError, match="3 steps of training cannot follow 4 cuts"):
        loss_after_cut(model.module, task, {**PACE, "steps": 3}, seed=0, scratch=tmp_path, group=GROUP, num_cuts=4)
