import pytest
import torch

from compress.core.random import generator
from compress.core.task import InputSpec, SealedTestSplit
from tests.toys import TOY_INPUT, toy_task


def test_the_test_split_is_sealed_until_it_is_opened():
    task = toy_task()
    with pytest.raises(SealedTestSplit, match="read once, by `evaluate`"):
        task.split("test")
    assert len(task.opened().split("test")) == 48


def test_batches_cover_a_split_in_order_without_a_generator():
    task = toy_task()
    labels = torch.cat([y_B for _, y_B in task.batches("validation", batch_size=20)])
    assert torch.equal(labels, task.split("validation").labels_B)


def test_shuffled_batches_repeat_with_the_generator_and_cover_everything():
    task = toy_task()
    first, second = (
        torch.cat([y_B for _, y_B in task.batches("train", batch_size=7, shuffle=generator(5))]) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, task.split("train").labels_B)
    assert torch.equal(first.sort().values, task.split("train").labels_B.sort().values)


def test_limit_takes_that_many():
    assert sum(len(y_B) for _, y_B in toy_task().batches("train", batch_size=4, limit=10)) == 10


def test_preprocessing_is_division_subtraction_division():
    spec = InputSpec(shape=(1, 1, 2), mean=(0.5,), std=(0.25,), class_names=("a", "b"))
    x_BCHW = spec.preprocess(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    assert x_BCHW.flatten().tolist() == [-2.0, 2.0]


def test_input_spec_survives_json():
    assert InputSpec.from_json(TOY_INPUT.as_json()) == TOY_INPUT


def test_input_spec_wants_one_mean_a_channel():
    with pytest.raises(ValueError, match="3 channels"):
        InputSpec(shape=(3, 4, 4), mean=(0.5,), std=(0.5,), class_names=("a",))


def test_a_model_that_does_not_fit_is_refused():
    other_shape = InputSpec(shape=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3, class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"takes \(3, 8, 8\) inputs, task 'toy' gives \(1, 8, 8\)"):
        toy_task().check_fits(other_shape)
    other_classes = InputSpec(shape=(1, 8, 8), mean=(0.0,), std=(1.0,), class_names=("a", "b"))
    with pytest.raises(ValueError, match="knows 2 classes, task 'toy' has 3"):
        toy_task().check_fits(other_classes)
    other_scale = InputSpec(shape=(1, 8, 8), mean=(0.1,), std=(0.25,), class_names=TOY_INPUT.class_names)
    with pytest.raises(ValueError, match="made for other inputs"):
        toy_task().check_fits(other_scale)
    toy_task().check_fits(TOY_INPUT)


def test_correct_counts_the_largest_output():
    logits_BC = torch.tensor([[0.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    assert toy_task().correct(logits_BC, torch.tensor([1, 1])).tolist() == [1.0, 0.0]
