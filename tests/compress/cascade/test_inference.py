import pytest
import torch

from compress.cascade.confidences import CONFIDENCES
from compress.cascade.inference import RoutedSession, Router, cascade_logits
from compress.core.registry import UnknownName

#: Margin scores of the small network on inputs 0..3: about 0, 1, 0.25, 0.9.
SMALL = torch.tensor([[9.0, 0.0], [0.0, 0.0], [2.0, 0.0], [0.2, 0.0]])
MARGIN = CONFIDENCES.bind("margin")


class Large:
    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen.append(x.flatten().tolist())
        return torch.stack([torch.full((len(x),), -4.0), torch.full((len(x),), 4.0)], dim=1)


def small(x):
    return SMALL[x.long().flatten()]


X = torch.arange(4.0).view(4, 1, 1, 1)


def test_the_large_network_sees_only_what_is_deferred():
    large = Large()
    routed = cascade_logits(small, large, X, confidence=MARGIN, threshold=0.5)
    assert routed.is_deferred_B.tolist() == [False, True, False, True]
    assert large.seen == [[1.0, 3.0]]
    assert routed.logits_BC.argmax(1).tolist() == [0, 1, 0, 1]
    assert routed.logits_BC[0].tolist() == [9.0, 0.0]
    assert SMALL[1].tolist() == [0.0, 0.0]


def test_it_is_not_called_when_nothing_is_deferred_and_sees_all_at_the_other_end():
    large = Large()
    assert not cascade_logits(small, large, X, confidence=MARGIN, threshold=1.0).is_deferred_B.any()
    assert large.seen == []
    assert cascade_logits(small, large, X, confidence=MARGIN, threshold=-1.0).is_deferred_B.all()
    assert large.seen == [[0.0, 1.0, 2.0, 3.0]]


def test_temperatures_divide_before_the_score_is_taken():
    routed = cascade_logits(small, Large(), X, confidence=MARGIN, threshold=0.5, temperature=(5.0, 2.0))
    assert routed.is_deferred_B.tolist() == [False, True, True, True]
    assert routed.logits_BC[0].tolist() == pytest.approx([1.8, 0.0])
    assert routed.logits_BC[1].tolist() == [-2.0, 2.0]


def test_the_router_is_written_and_read(tmp_path):
    router = Router(
        small="a-1",
        large="b-2",
        digests=("d", "e"),
        confidence=MARGIN,
        threshold=0.123456789012345,
        temperature=(0.7, 1.3),
    )
    router.write(tmp_path / "cascade.json")
    again = Router.read(tmp_path / "cascade.json")
    assert again.as_json() == router.as_json()
    assert again.threshold == router.threshold
    assert torch.equal(again(small, Large(), X).logits_BC, router(small, Large(), X).logits_BC)


def test_an_unknown_confidence_is_refused(tmp_path):
    data = Router(small="a", large="b", digests=("d", "e"), confidence=MARGIN, threshold=0.5).as_json()
    with pytest.raises(UnknownName, match="margin"):
        Router.from_json(data | {"confidence": {"name": "margins"}})


def test_other_members_are_refused_by_name():
    router = Router(small="distill-1", large="train-2", digests=("d", "e"), confidence=MARGIN, threshold=0.5)
    router.check_members("d", "e")
    with pytest.raises(ValueError, match=r"distill-1 as its small network, but role 'model' .*run stage cascade again"):
        router.check_members("x", "e")
    with pytest.raises(ValueError, match=r"train-2 as its large network, but role 'teacher'"):
        router.check_members("d", "x")


def test_a_cascade_that_names_no_weights_is_refused():
    data = Router(small="a", large="b", digests=("d", "e"), confidence=MARGIN, threshold=0.5).as_json()
    del data["digests"]
    with pytest.raises(ValueError, match="run stage cascade again"):
        Router.from_json(data)


def test_a_timed_cascade_has_the_threads_of_its_networks():
    seen = []

    def noting(x):
        seen.append(torch.get_num_threads())
        return small(x)

    class Like:
        name, device, num_threads = "onnxruntime", "cpu", 1

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        router = Router(small="s", large="l", digests=("", ""), confidence=MARGIN, threshold=0.5)
        RoutedSession(router, noting, Large(), Like()).infer(X.numpy())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1]
