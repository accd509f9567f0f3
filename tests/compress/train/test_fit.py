import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import compress.train.fit as fit_module
from compress.core.random import generator
from compress.core.registry import UnknownName
from compress.train.checkpoint import read, state_digest
from compress.train.fit import Diverged, FitConfig, fit
from compress.train.scoring import accuracy
from tests.compress.train.interruption import InterruptionError, StopsAfter, small
from tests.toys import toy_model, toy_task

NUM_STEPS = 18


def noisy_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten())
    return nn.Sequential(net, nn.Linear(144, 3))


def augmented_task():
    def flip(images, draw):
        mask_B = torch.rand(len(images), generator=draw) < 0.5
        return torch.where(mask_B.view(-1, 1, 1, 1), images.flip(2), images)

    return replace(toy_task(), augment=flip)


def test_learns_the_toy_task():
    module = toy_model().module
    report = fit(module, toy_task(), small(epochs=6), scratch=None, what="train")
    assert report.validation_accuracy >= 0.95
    assert report.validation_accuracy == accuracy(module, toy_task(), "validation")
    assert not module.training


def test_report_covers_every_epoch():
    report = fit(toy_model().module, toy_task(), small(eval_every=2), scratch=None, what="train")
    assert [row["epoch"] for row in report.history] == [1, 2, 3]
    assert [row["validation_accuracy"] is None for row in report.history] == [True, False, False]
    assert report.num_steps == NUM_STEPS
    assert report.history[0]["learning_rate"] == 0.1
    assert report.as_json()["num_epochs"] == 3
    assert report.seconds >= 0


def test_same_arguments_give_the_same_weights():
    digests = []
    for _ in range(2):
        module = noisy_net()
        fit(module, augmented_task(), small(), scratch=None, what="train")
        digests.append(state_digest(module))
    assert digests[0] == digests[1]


def test_another_seed_gives_other_weights():
    first, second = noisy_net(), noisy_net()
    fit(first, toy_task(), small(seed=0), scratch=None, what="train")
    fit(second, toy_task(), small(seed=1), scratch=None, what="train")
    assert state_digest(first) != state_digest(second)


def test_leaves_the_global_generator_alone():
    module = noisy_net()
    before = torch.get_rng_state()
    fit(module, toy_task(), small(epochs=1), scratch=None, what="train")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("recipe", ["sgd_cosine", "sgd_one_cycle", "adamw_cosine", "adamw_one_cycle"])
@pytest.mark.parametrize("num_calls", [5, 6, 13])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_an_interrupted_fit_ends_in_the_same_weights(tmp_path, recipe, num_calls, ema_decay):
    task = augmented_task()
    config = small(recipe=recipe, ema_decay=ema_decay, clip_norm=1.0)
    whole, broken = noisy_net(), noisy_net()
    wanted = fit(whole, task, config, scratch=None, what="train", loss=StopsAfter(task, -1))
    with pytest.raises(InterruptionError):
        fit(broken, task, config, scratch=tmp_path, what="train", loss=StopsAfter(task, num_calls))
    again = noisy_net()
    rest = StopsAfter(task, NUM_STEPS - 6 * (num_calls // 6))
    found = fit(again, task, config, scratch=tmp_path, what="train", loss=rest)
    assert rest.left == 0
    assert state_digest(again) == state_digest(whole)
    assert [row["train_loss"] for row in found.history] == [row["train_loss"] for row in wanted.history]
    assert (found.best_epoch, found.validation_accuracy) == (wanted.best_epoch, wanted.validation_accuracy)


@pytest.mark.parametrize("num_calls", [1, 4, 11])
def test_a_long_epoch_goes_on_in_its_middle(tmp_path, monkeypatch, num_calls):
    monkeypatch.setattr(fit_module, "SAVE_INTERVAL_S", 0.0)
    task, config = augmented_task(), small(recipe="adamw_one_cycle", ema_decay=0.9)
    whole, broken, again = noisy_net(), noisy_net(), noisy_net()
    wanted = fit(whole, task, config, scratch=None, what="train", loss=StopsAfter(task, -1))
    with pytest.raises(InterruptionError):
        fit(broken, task, config, scratch=tmp_path, what="train", loss=StopsAfter(task, num_calls))
    rest = StopsAfter(task, NUM_STEPS - num_calls)
    found = fit(again, task, config, scratch=tmp_path, what="train", loss=rest)
    assert rest.left == 0
    assert state_digest(again) == state_digest(whole)
    for row, original in zip(found.history, wanted.history, strict=True):
        assert {**row, "seconds": 0} == {**original, "seconds": 0}


def test_a_poisoned_step_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_module, "SAVE_INTERVAL_S", 0.0)
    task = toy_task()

    class TurnsNan(StopsAfter):
        def __call__(self, module, x_BCHW, y_B):
            self.left -= 1
            return self.task.loss(module(x_BCHW), y_B) * (math.nan if self.left <= 0 else 1.0)

    with pytest.raises(Diverged, match=r"nan in epoch 1, step 4.*after epoch 0 and 3 steps, is .*safetensors"):
        fit(toy_model().module, task, small(), scratch=tmp_path, what="train", loss=TurnsNan(task, 4))
    tensors, facts = read(next(tmp_path.iterdir()))
    assert len(facts["losses"]) == 3
    assert all(value.isfinite().all() for value in tensors.values())


def test_a_finished_fit_is_not_repeated(tmp_path):
    task, first, second = toy_task(), noisy_net(), noisy_net()
    wanted = fit(first, task, small(), scratch=tmp_path, what="train")
    found = fit(second, task, small(), scratch=tmp_path, what="train")
    assert found == wanted
    assert state_digest(first) == state_digest(second)


def test_different_fits_share_a_scratch_folder(tmp_path):
    for seed in (0, 1):
        fit(noisy_net(), toy_task(), small(epochs=1, seed=seed), scratch=tmp_path, what="train")
    fit(toy_model(1).module, toy_task(), small(epochs=1), scratch=tmp_path, what="train")
    assert len(list(tmp_path.iterdir())) == 3


def test_fraction_of_an_epoch():
    report = fit(toy_model().module, toy_task(), small(epochs=1.5), scratch=None, what="train")
    assert (report.num_steps, report.num_epochs) == (9, 2)


def test_max_steps_overrules_epochs():
    report = fit(toy_model().module, toy_task(), small(max_steps=7), scratch=None, what="train")
    assert (report.num_steps, report.num_epochs) == (7, 2)


def test_a_batch_larger_than_the_split():
    report = fit(toy_model().module, toy_task(), small(epochs=2, batch_size=500), scratch=None, what="train")
    assert report.num_steps == 2


def test_no_epochs_change_nothing(tmp_path):
    module = toy_model().module
    before = state_digest(module)
    report = fit(module, toy_task(), small(epochs=0), scratch=tmp_path, what="train")
    assert state_digest(module) == before
    assert report.validation_accuracy == accuracy(module, toy_task(), "validation")
    assert (report.num_steps, report.best_epoch, report.history) == (0, 0, ())


def test_keeps_the_best_epoch():
    task = toy_task()
    module = toy_model().module

    class Ruins(nn.Module):
        def forward(self, net, x_BCHW, y_B):
            self.num = getattr(self, "num", 0) + 1
            sign = 1 if self.num <= 12 else -1
            return sign * task.loss(net(x_BCHW), y_B)

    recipe = {"name": "sgd_cosine", "lr": 0.1}
    kept = fit(module, task, small(epochs=6, recipe=recipe), scratch=None, what="train", loss=Ruins())
    assert kept.best_epoch <= 3
    assert accuracy(module, task, "validation") == kept.validation_accuracy
    last = fit(toy_model().module, task, small(epochs=6, select="last"), scratch=None, what="train", loss=Ruins())
    assert last.best_epoch == 6
    assert last.validation_accuracy < kept.validation_accuracy


def test_ties_go_to_the_later_epoch():
    recipe = {"name": "sgd_cosine", "lr": 1e-12, "weight_decay": 0.0}
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    report = fit(module, toy_task(), small(recipe=recipe), scratch=None, what="train")
    assert report.best_epoch == 3


def test_a_loss_with_weights_is_trained_along_and_not_kept():
    task = toy_task()

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, net, x_BCHW, y_B):
            return task.loss(net(x_BCHW) * self.scale, y_B)

    loss, module = Scaled(), toy_model().module
    names = set(module.state_dict())
    fit(module, task, small(), scratch=None, what="train", loss=loss)
    assert loss.scale.item() != 1.0
    assert set(module.state_dict()) == names


def test_label_smoothing_beside_another_loss_is_refused():
    with pytest.raises(ValueError, match="label_smoothing"):
        fit(
            toy_model().module,
            toy_task(),
            small(label_smoothing=0.1),
            scratch=None,
            what="train",
            loss=StopsAfter(toy_task(), -1),
        )


def test_label_smoothing_raises_the_loss_of_a_sure_network():
    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([0.0, 0.0, 9.0]))

        def forward(self, x_BCHW):
            return self.bias.expand(len(x_BCHW), 3)

    recipe = {"name": "sgd_cosine", "lr": 1e-9}
    losses = [
        fit(Sure(), toy_task(), small(epochs=1, recipe=recipe, label_smoothing=s), scratch=None, what="t").history[0]
        for s in (0.0, 0.3)
    ]
    assert losses[0]["train_loss"] != pytest.approx(losses[1]["train_loss"], abs=0.01)


def test_ema_is_what_is_kept():
    plain, averaged = toy_model().module, toy_model().module
    config = small(epochs=1, select="last")
    fit(plain, toy_task(), config, scratch=None, what="train")
    fit(averaged, toy_task(), replace(config, ema_decay=0.99), scratch=None, what="train")
    assert state_digest(plain) != state_digest(averaged)


def test_bfloat16_trains_and_leaves_no_wrapper():
    module = toy_model().module
    report = fit(module, toy_task(), small(epochs=6, precision="bfloat16"), scratch=None, what="train")
    assert report.validation_accuracy > 0.9
    assert "forward" not in vars(module)
    assert report.validation_accuracy == accuracy(module, toy_task(), "validation")
    assert all(value.dtype == torch.float32 for value in module.parameters())
    again = toy_model().module
    fit(again, toy_task(), small(epochs=1), scratch=None, what="train")


def test_a_nan_loss_names_step_and_rate():
    recipe = {"name": "sgd_cosine", "lr": 1e30}
    with pytest.raises(Diverged, match=r"epoch 1, step \d+.*sgd_cosine.*lr=1e\+30.*lower the learning rate") as caught:
        fit(toy_model().module, toy_task(), small(recipe=recipe), scratch=None, what="train")
    assert isinstance(caught.value, ValueError)
    assert "checkpoint" not in str(caught.value)


def test_divergence_keeps_the_last_good_checkpoint(tmp_path):
    task = toy_task()

    class TurnsNan(StopsAfter):
        def __call__(self, module, x_BCHW, y_B):
            self.left -= 1
            return self.task.loss(module(x_BCHW), y_B) * (math.nan if self.left <= 0 else 1.0)

    with pytest.raises(Diverged, match=r"the loss became nan in epoch 3, step 3.*after epoch 2, is .*safetensors"):
        fit(toy_model().module, task, small(), scratch=tmp_path, what="train", loss=TurnsNan(task, 15))
    (path,) = tmp_path.iterdir()
    tensors, facts = read(path)
    assert facts["epoch"] == 2
    with pytest.raises(Diverged, match=r"in epoch 3, step 1.*after epoch 2, is "):
        fit(toy_model().module, task, small(), scratch=tmp_path, what="train", loss=TurnsNan(task, 1))
    assert all(value.isfinite().all() for value in tensors.values())


def test_an_infinite_weight_behind_a_finite_loss_is_noticed(tmp_path):
    task = toy_task()

    class LastGradient(StopsAfter):
        def __call__(self, module, x_BCHW, y_B):
            self.left -= 1
            value = self.task.loss(module(x_BCHW), y_B)
            if self.left == 0:
                parameter = next(module.parameters())
                value = value + (parameter - parameter.detach()).sum() * math.inf
                return torch.where(torch.tensor(True), value.nan_to_num(0.0), value)
            return value

    with pytest.raises(Diverged, match=r"conv1.weight became infinite or not a number in epoch 1, step 6"):
        fit(toy_model().module, task, small(), scratch=tmp_path, what="train", loss=LastGradient(task, 6))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("epochs", math.inf),
        ("batch_size", 0),
        ("ema_decay", 1.0),
        ("label_smoothing", 1.0),
        ("eval_every", 0),
        ("clip_norm", -1),
        ("max_steps", -1),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}=.*must be"):
        FitConfig(**{name: value})


def test_a_misspelt_option_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'epochs'"):
        FitConfig.from_json({"epoch": 3})
    with pytest.raises(UnknownName, match="Did you mean 'sgd_cosine'"):
        FitConfig(recipe="sgd_cosin")
    with pytest.raises(TypeError):
        fit(toy_model().module, toy_task(), small(), scratch=None, what="t", epochs=3)


def test_a_launcher_that_only_accelerate_knows_is_refused(monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(ValueError, match="started 1 processes, Accelerate sees 2: start them with torchrun"):
        fit(toy_model().module, toy_task(), small(), scratch=None, what="train")


def test_data_order_comes_from_seed_and_epoch(monkeypatch):
    seen = []
    task = toy_task()

    class Watches(StopsAfter):
        def __call__(self, module, x_BCHW, y_B):
            seen.append(y_B)
            return self.task.loss(module(x_BCHW), y_B)

    fit(toy_model().module, task, small(epochs=2), scratch=None, what="train", loss=Watches(task, -1))
    draw = generator(0, "epoch", 1)
    wanted = [y_B for _, y_B in task.batches("train", batch_size=16, shuffle=draw)]
    assert torch.equal(torch.cat(seen[6:]), torch.cat(wanted))
