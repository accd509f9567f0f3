"""Order, rule and parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.core.random import generator
from compress.core.task import TASKS, InputSpec
from compress.data.pictures import Pictures, SplitRule, picture_task, stratified_order
from tests.compress.data.tiny_sets import numbered, numbers

LABELS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)


def test_stratified_order_is_a_permutation_with_every_class_in_its_share() -> None:
    order = stratified_order(LABELS, generator(0))
    assert sorted(order.tolist()) == list(range(100))
    assert LABELS[order[:10]].bincount().tolist() == [6, 3, 1]
    assert LABELS[order[:50]].bincount().tolist() == [30, 15, 5]
    assert not torch.equal(order, stratified_order(LABELS, generator(1)))


def test_stratified_order_of_nothing_is_empty() -> None:
    assert stratified_order(torch.empty(0, dtype=torch.int64), generator(0)).tolist() == []


def test_rule_divides_all_rows_once() -> None:
    train, validation = SplitRule(validation=20, split_seed=0, limit=0).divide(LABELS)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(100))
    assert LABELS[validation].bincount().tolist() == [12, 6, 2]
    assert validation.tolist() == sorted(validation.tolist())


def test_rule_holds_out_a_tenth_by_default_and_limits_are_nested() -> None:
    whole, validation = SplitRule(validation=0, split_seed=3, limit=0).divide(LABELS)
    some, _ = SplitRule(validation=0, split_seed=3, limit=40).divide(LABELS)
    few, _ = SplitRule(validation=0, split_seed=3, limit=10).divide(LABELS)
    assert len(validation) == 10
    assert set(few.tolist()) < set(some.tolist()) < set(whole.tolist())


def test_rule_is_pinned() -> None:
    """A change here changes every stored result: count SPLIT_VERSION up."""
    _, validation = SplitRule(validation=6, split_seed=0, limit=0).divide(LABELS)
    assert validation.tolist() == [13, 21, 22, 62, 82, 91]


@pytest.mark.parametrize(("validation", "limit"), [(100, 0), (20, 81)])
def test_rule_refuses_more_than_there_is(validation: int, limit: int) -> None:
    with pytest.raises(ValueError, match="100 training pictures cannot give"):
        SplitRule(validation=validation, split_seed=0, limit=limit).divide(LABELS)


def task_over(parts: dict[str, Pictures], limit: int = 0):
    return picture_task(
        TASKS.bind("digits"),
        spec=InputSpec(shape=(1, 4, 4), mean=(0.5,), std=(0.5,), class_names=("a", "b")),
        rule=SplitRule(validation=2, split_seed=0, limit=limit),
        source_digest="0",
        load=lambda: parts,
        augment=None,
    )


def some_pictures(count: int, first: int) -> Pictures:
    return Pictures(numbered(count, 4, 1, first), np.arange(count, dtype=np.uint8) % 2)


def test_a_validation_part_is_used_as_it_is() -> None:
    parts = {"train": some_pictures(10, 0), "validation": some_pictures(4, 10), "test": some_pictures(3, 14)}
    task = task_over(parts).opened()
    found = {name: numbers(task.split(name).images(torch.arange(len(task.split(name)))).numpy()) for name in parts}
    assert found == {"train": [*range(10)], "validation": [10, 11, 12, 13], "test": [14, 15, 16]}
    assert len(task_over(parts, limit=4).split("train")) == 4
    with pytest.raises(ValueError, match="limit"):
        task_over(parts, limit=11).split("train")


def test_labels_belong_to_their_pictures() -> None:
    task = task_over({"train": some_pictures(20, 0), "test": some_pictures(4, 20)})
    part = task.split("train")
    index = torch.tensor([3, 1, 2])
    assert (torch.tensor(numbers(part.images(index).numpy())) % 2).tolist() == part.labels_B[index].tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 1], "3 pictures but 2 labels"), ([0, 1, 2], "from 0 to 2"), ([-1, 0, 1], "from -1 to 1")],
)
def test_labels_are_checked(labels: list[int], message: str) -> None:
    bad = Pictures(numbered(3, 4, 1), np.array(labels))
    with pytest.raises(ValueError, match=message):
        task_over({"train": bad, "test": bad}).split("train")
