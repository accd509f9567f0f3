"""A partition: what is joined has one root, what meets nothing that can be cut is marked."""

import torch

from compress.graph.partition import FIXED, Partition, folded, thin


def test_joining_is_an_equivalence():
    sets = Partition()
    a, b, c = sets.new(4), sets.new(4), sets.new(4)
    sets.join(a, b.flip(0), "")
    sets.join(b, c, "")
    assert sets.roots(c).tolist() == a.flip(0).tolist()
    assert sets.roots(a).tolist() == a.tolist()


def test_there_is_room_for_many():
    sets = Partition()
    first, many = sets.new(3), sets.new(5000)
    sets.join(many[:1], many, "")
    assert sets.roots(many).unique().tolist() == [4]
    assert sets.roots(first).tolist() == [1, 2, 3]


def test_sets_are_those_of_a_search_one_by_one():
    """Pairs at random, all of one call joined at once: numbers repeat and form chains."""
    for seed in range(200):
        draw = torch.Generator().manual_seed(seed)
        sets, expected = Partition(), {number: {number} for number in range(1, 21)}
        numbers = sets.new(20)
        for _ in range(3):
            a, b = numbers[torch.randint(20, (2, 5), generator=draw)]
            sets.join(a, b, "")
            for one, other in zip(a.tolist(), b.tolist(), strict=True):
                both = expected[one] | expected[other]
                expected.update(dict.fromkeys(both, both))
        assert sets.roots(numbers).tolist() == [min(expected[number]) for number in numbers.tolist()]


def test_what_meets_the_fixed_is_marked_and_not_joined():
    sets = Partition()
    a = sets.new(3)
    sets.join(a, torch.tensor([FIXED, 2, FIXED]), "the picture")
    assert sets.marks() == {1: {"the picture"}, 3: {"the picture"}}
    sets.join(a[1:2], a[2:], "")
    assert sets.marks() == {1: {"the picture"}, 2: {"the picture"}}


def test_joining_along_a_dimension():
    sets = Partition()
    labels = sets.new(6).view(2, 3)
    assert sets.varies(labels, 0)
    assert sets.join_along(labels, (0,), "").tolist() == [[1, 2, 3]]
    assert not sets.varies(labels, 0)
    assert sets.varies(labels, 1)


def test_repetition_costs_nothing():
    labels = torch.arange(3).view(1, 3, 1).expand(4, 3, 5)
    assert thin(labels)[0].shape == (1, 3, 1)
    assert [step == 0 for step in folded(labels.contiguous()).stride()] == [True, False, True]
    assert torch.equal(folded(labels.contiguous()), labels)
