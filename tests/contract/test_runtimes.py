"""What every runtime promises."""

import numpy as np
import pytest
import torch

from compress import catalogue
from compress.core.stage import Entry, Ref
from compress.measure.runtimes import RUNTIMES, Session, is_installed
from tests.toys import TOY_INPUT, toy_entry, toy_model

catalogue.load()

NAMES = sorted(name for name in RUNTIMES if RUNTIMES[name].function.__module__.startswith(("compress.", "deploy.")))
#: Runtimes that run only what an export stage built; without that file they must say so.
NEED_A_FILE = {"aotinductor": "model.pt2", "tensorrt": "model.plan"}


def test_at_least_one_runtime_can_be_tried_here():
    assert is_installed("torch")
    assert {"onnxruntime", "torch"} <= set(NAMES)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in NEED_A_FILE])
def test_answers_like_torch_and_twice_the_same(name, batch):
    if not is_installed(name):
        pytest.skip(f"{RUNTIMES[name].extra['package']} is not installed")
    model, before = toy_model(seed=3), torch.get_num_threads()
    x_BCHW = TOY_INPUT.example(batch)
    with RUNTIMES.bind(name)(toy_entry(model)) as session:
        assert isinstance(session, Session)
        assert (session.name, session.num_threads) == (name, 1)
        assert session.device
        first_BC, second_BC = (session.infer(x_BCHW.numpy()) for _ in range(2))
    assert torch.get_num_threads() == before
    assert first_BC.shape == (batch, 3)
    assert first_BC.dtype == np.float32
    assert np.array_equal(first_BC, second_BC)
    np.testing.assert_allclose(first_BC, model(x_BCHW).numpy(), atol=1e-4, rtol=0)
    assert np.abs(first_BC).max() > 1e-2, "logits near 0 would agree with anything"


@pytest.mark.parametrize("name", sorted(NEED_A_FILE))
def test_an_entry_without_the_file_says_why(name):
    entry = Entry(ref=Ref("export-1"), report={name: {"reason": "built on a machine without a GPU"}})
    expected = rf"holds no {NEED_A_FILE[name]} \(built on a machine without a GPU\)"
    with pytest.raises(ValueError, match=expected), RUNTIMES.bind(name)(entry):
        pass


@pytest.mark.parametrize("name", sorted(name for name in NEED_A_FILE if RUNTIMES[name].extra["package"] != "torch"))
def test_an_unavailable_runtime_says_which_package_is_missing(name, tmp_path):
    if is_installed(name):
        pytest.skip(f"{name} is installed here")
    (tmp_path / NEED_A_FILE[name]).write_bytes(b"built elsewhere")
    entry = Entry(ref=Ref("export-1"), report={}, files={NEED_A_FILE[name]: tmp_path / NEED_A_FILE[name]})
    with pytest.raises(RuntimeError, match=f"(?i){RUNTIMES[name].extra['package']}"), RUNTIMES.bind(name)(entry):
        pass


def test_what_is_not_registered_is_not_installed():
    assert not is_installed("no_such_runtime")


@pytest.mark.parametrize("name", NAMES)
def test_card_is_filled_in(name):
    for word in ("Args:", "Yields:", "Differs from the paper:", "Cost:", "Reference:"):
        assert word in RUNTIMES[name].function.__doc__
