"""The torch runtime and sessions against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.model import Model
from compress.core.stage import Entry
from compress.measure.runtimes import RUNTIMES, Session, paired_sessions
from tests.toys import toy_entry, toy_model


@pytest.fixture
def x_BCHW() -> np.ndarray:
    return toy_model().input.example(5).numpy()


def test_answers_like_the_model(x_BCHW: np.ndarray) -> None:
    model = toy_model()
    with RUNTIMES.bind("torch")(toy_entry(model)) as session:
        logits_BC = session.infer(x_BCHW)
    assert isinstance(session, Session)
    assert (session.name, session.device, session.num_threads) == ("torch", "cpu", 1)
    assert logits_BC.dtype == np.float32
    assert np.array_equal(logits_BC, model(torch.from_numpy(x_BCHW)).numpy())


def test_threads_are_set_inside_and_restored() -> None:
    before = torch.get_num_threads()
    with RUNTIMES.bind("torch", num_threads=2)(toy_entry()):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), RUNTIMES.bind("torch", num_threads=2)(toy_entry()):
        raise KeyError
    assert torch.get_num_threads() == before


def test_each_of_two_sessions_uses_its_own_threads(x_BCHW: np.ndarray) -> None:
    seen: list[int] = []

    class Note(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return x_BCHW.flatten(1)[:, :3]

    model = toy_model()
    entry = Entry.of(Model(Note(), model.input, model.lineage))
    before = torch.get_num_threads()
    one, two = (RUNTIMES.bind("torch", num_threads=threads)(entry) for threads in (1, 2))
    with one as first, two as second:
        first.infer(x_BCHW)
        second.infer(x_BCHW)
        first.infer(x_BCHW)
    assert seen == [1, 2, 1]
    assert torch.get_num_threads() == before


def test_runs_in_evaluation_and_inference_mode(x_BCHW: np.ndarray) -> None:
    seen: list[tuple[bool, bool]] = []
    model = toy_model()
    model.module.train()
    model.module.register_forward_hook(
        lambda module, inputs, output: seen.append((module.training, torch.is_inference_mode_enabled()))
    )
    with RUNTIMES.bind("torch")(toy_entry(model)) as session:
        session.infer(x_BCHW)
    assert seen == [(False, True)]


def test_other_types_are_a_programming_error(x_BCHW: np.ndarray) -> None:
    with RUNTIMES.bind("torch")(toy_entry()) as session, pytest.raises(AssertionError):
        session.infer(x_BCHW.astype(np.float64))


def test_no_threads() -> None:
    with pytest.raises(ValueError, match="num_threads=0"), RUNTIMES.bind("torch", num_threads=0)(toy_entry()):
        pass


def test_sessions_take_turns(x_BCHW: np.ndarray) -> None:
    runtime = RUNTIMES.bind("torch")
    with runtime(toy_entry()) as first, runtime(toy_entry()) as second:
        times = paired_sessions({"a": first, "b": second}, x_BCHW, rounds=16, warmup=2, seed=4)
    assert list(times.samples_ms) == ["a", "b"]
    assert all(len(samples) == 16 for samples in times.samples_ms.values())
    assert times.seed == 4
    ratio = times.ratio("a", "b")
    assert ratio.low < 2, "equal sessions; the value alone is at the mercy of a busy machine"
    assert ratio.high > 0.5
