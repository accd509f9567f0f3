from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from compress.core.stage import Entry, Ref
from compress.measure.runtimes import RUNTIMES, Session
from deploy.export.onnx_from_model import onnx_from_model
from deploy.runtime.onnxruntime import OnnxSession, ProviderMissing, session_from_bytes
from tests.toys import TOY_INPUT, toy_entry, toy_model

X = TOY_INPUT.example(3).numpy()


def test_a_model_without_a_file_is_exported_on_the_fly() -> None:
    entry = toy_entry()
    with RUNTIMES.bind("onnxruntime")(entry) as session:
        assert isinstance(session, Session)
        assert (session.name, session.device, session.num_threads) == ("onnxruntime", "cpu", 1)
        logits_BC = session.infer(X)
    np.testing.assert_allclose(logits_BC, entry.model(TOY_INPUT.example(3)).numpy(), atol=1e-4)
    assert logits_BC.dtype == np.float32


def test_the_entrys_file_is_used(tmp_path: Path) -> None:
    other = onnx_from_model(toy_model(seed=5), tmp_path / "model.onnx").path
    entry = Entry(ref=Ref("export-1"), report={}, files={"model.onnx": other}, loaded=toy_model(seed=0))
    with RUNTIMES.bind("onnxruntime")(entry) as session:
        np.testing.assert_allclose(session.infer(X), toy_model(seed=5)(TOY_INPUT.example(3)).numpy(), atol=1e-4)


def test_int8_takes_its_own_file(tmp_path: Path) -> None:
    path = onnx_from_model(toy_model(seed=5), tmp_path / "m.onnx").path
    entry = Entry(ref=Ref("export-1"), report={}, files={"model.int8.onnx": path})
    with RUNTIMES.bind("onnxruntime", precision="int8", num_threads=2)(entry) as session:
        assert session.num_threads == 2
        assert session.infer(X).shape == (3, 3)


def test_int8_that_was_refused_says_why() -> None:
    entry = Entry(ref=Ref("export-1"), report={"int8": {"reason": "it is slower"}})
    runtime = RUNTIMES.bind("onnxruntime", precision="int8")
    with pytest.raises(ValueError, match=r"no model\.int8\.onnx \(it is slower\)"), runtime(entry):
        pass


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="option 'precision'"):
        RUNTIMES.bind("onnxruntime", precision="int3")


def test_a_provider_that_is_not_there_is_an_error() -> None:
    runtime = RUNTIMES.bind("onnxruntime", provider="NoSuchExecutionProvider")
    with pytest.raises(ProviderMissing, match=r"has no NoSuch\w+; it has .*CPU"), runtime(toy_entry()):
        pass


def test_a_silent_fall_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_from_model(toy_model(), tmp_path / "m.onnx").path
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["OtherExecutionProvider"])
    with pytest.raises(ProviderMissing, match="asked ONNX Runtime for CPUExecutionProvider and got Other"):
        session_from_bytes(path.read_bytes())


def test_a_missing_file_and_no_threads(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist: export the model first"):
        OnnxSession(tmp_path / "none.onnx")
    path = onnx_from_model(toy_model(), tmp_path / "m.onnx").path
    with pytest.raises(ValueError, match="use 1 or more"):
        OnnxSession(path, num_threads=0)
    assert OnnxSession(path).input_shape == (1, 8, 8)
