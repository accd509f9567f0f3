"""What every distillation loss keeps to."""

import pytest
import torch

from compress.core.random import generator
from compress.distill.losses import LOSSES, Taps

pytestmark = pytest.mark.parametrize("name", sorted(LOSSES))

TARGET = torch.tensor([0, 2, 1, 1])


def taps(place, *, trained=False):
    draw = generator(0, place)
    logits_BC = torch.randn(4, 3, generator=draw, requires_grad=trained)
    maps = tuple(torch.randn(4, 5, size, size, generator=draw, requires_grad=trained) for size in (4, 2))
    return Taps(logits_BC, maps)


def has_teacher(name):
    return LOSSES[name].extra.get("has_teacher", True)


def test_card_is_filled_in(name):
    card = LOSSES[name]
    assert card.paper or not has_teacher(name)
    assert set(card.needs) <= {"features"}
    for part in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert part in card.function.__doc__


def test_a_finite_scalar_that_is_never_negative(name):
    value = LOSSES.bind(name)(taps("student"), taps("teacher"), TARGET)
    assert value.shape == ()
    assert bool(value.isfinite())
    assert value.item() >= 0


def test_gradients_reach_what_the_card_names(name):
    student = taps("student", trained=True)
    LOSSES.bind(name)(student, taps("teacher"), TARGET).backward()
    assert student.logits_BC.grad is not None
    has_gradient = [part.grad is not None for part in student.features]
    assert has_gradient == [("features" in LOSSES[name].needs)] * 2


def test_does_not_read_features_that_the_card_does_not_name(name):
    if "features" in LOSSES[name].needs:
        with pytest.raises(ValueError, match="feature maps"):
            LOSSES.bind(name)(Taps(torch.zeros(4, 3)), Taps(torch.zeros(4, 3)), TARGET)
    else:
        bare = [Taps(part.logits_BC) for part in (taps("student"), taps("teacher"))]
        loss = LOSSES.bind(name)
        assert torch.equal(loss(*bare, TARGET), loss(taps("student"), taps("teacher"), TARGET))


def test_without_true_labels_the_teacher_itself_is_perfect(name):
    if not has_teacher(name):
        pytest.skip("learns from true labels alone")
    loss, teacher = LOSSES.bind(name, hard_weight=0.0), taps("teacher")
    assert loss(teacher, teacher, TARGET).item() == pytest.approx(0.0, abs=1e-6)
    assert loss(taps("student"), teacher, TARGET).item() > 1e-3


def test_order_of_the_batch_does_not_matter(name):
    order = torch.tensor([2, 0, 3, 1])
    student, teacher = taps("student"), taps("teacher")

    def mixed(part):
        return Taps(part.logits_BC[order], tuple(map_BDHW[order] for map_BDHW in part.features))

    loss = LOSSES.bind(name)
    found = loss(mixed(student), mixed(teacher), TARGET[order])
    assert found.item() == pytest.approx(loss(student, teacher, TARGET).item(), rel=1e-5)
