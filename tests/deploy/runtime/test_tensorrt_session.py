from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.core.stage import Entry, Ref
from compress.measure.runtimes import RUNTIMES
from deploy.export.engine_from_onnx import EngineError, TensorRTMissing
from deploy.runtime.tensorrt import EngineSession
from tests.deploy.export.fake_tensorrt import HOST_CODE, FakeTensorRT


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "model.plan"
    path.write_bytes(b"ENGINE!")
    return path


def test_the_engine_reads_and_writes_the_buffers(plan: Path) -> None:
    session = EngineSession(plan, trt=FakeTensorRT(), device="cpu")
    x_BCHW = np.stack([np.full((3, 8, 8), 1.0), np.full((3, 8, 8), 2.5)]).astype(np.float32)
    assert session.infer(x_BCHW).tolist() == [[2.0, 2.0], [5.0, 5.0]]
    assert (session.input_shape, session.max_batch) == ((3, 8, 8), 4)


def test_a_batch_over_the_profile_is_refused(plan: Path) -> None:
    session = EngineSession(plan, trt=FakeTensorRT(), device="cpu")
    with pytest.raises(ValueError, match="batch 5 is over the engine's 4"):
        session.infer(np.zeros((5, 3, 8, 8), np.float32))


def test_an_engine_of_another_machine_is_refused(plan: Path) -> None:
    trt = FakeTensorRT()
    trt.is_loadable = False
    with pytest.raises(EngineError, match=r"does not load model\.plan"):
        EngineSession(plan, trt=trt, device="cpu")


@pytest.mark.parametrize("is_compatible", [True, False])
def test_code_in_an_engine_is_run_only_if_its_manifest_says_so(plan: Path, is_compatible: bool) -> None:
    plan.write_bytes(HOST_CODE + b"ENGINE!")
    manifest = {"settings": {"is_version_compatible": is_compatible}}
    plan.with_name("model.plan.json").write_text(json.dumps(manifest))
    if is_compatible:
        assert EngineSession(plan, trt=FakeTensorRT(), device="cpu").max_batch == 4
    else:
        with pytest.raises(EngineError, match=r"does not load model\.plan"):
            EngineSession(plan, trt=FakeTensorRT(), device="cpu")


def test_a_failed_run_is_an_error(plan: Path) -> None:
    trt = FakeTensorRT()
    trt.is_running = False
    with pytest.raises(EngineError, match="could not run"):
        EngineSession(plan, trt=trt, device="cpu").infer(np.zeros((1, 3, 8, 8), np.float32))


def test_an_entry_without_engine_says_why() -> None:
    entry = Entry(ref=Ref("export-1"), report={"tensorrt": {"reason": "no GPU"}})
    with pytest.raises(ValueError, match=r"holds no model\.plan \(no GPU\)"), RUNTIMES.bind("tensorrt")(entry):
        pass


def test_an_engine_without_tensorrt_says_why(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    entry = Entry(ref=Ref("export-1"), report={}, files={"model.plan": plan})
    with pytest.raises(TensorRTMissing), RUNTIMES.bind("tensorrt")(entry):
        pass
