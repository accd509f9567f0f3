import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from compress.cascade.confidences import CONFIDENCES
from compress.cascade.inference import Router
from compress.core.registry import UnknownName
from compress.core.stage import Entry, StageCall
from compress.core.task import SealedTestSplit
from compress.measure.costs import cost_of
from compress.measure.memory import peak_memory_bytes
from compress.measure.runtimes import RUNTIMES, TorchSession
from compress.stages.evaluate import INT8, PREDICTIONS, ROUTER, EvaluateConfig, evaluate
from compress.train.checkpoint import state_digest
from tests.compress.search.toy_training import trained_toy
from tests.toys import toy_task

STUDENT = Entry.of(trained_toy(num_epochs=1, seed=3), "export-1")
TEACHER = Entry.of(trained_toy(), "train-2")
TIMED = {"runtimes": ("torch",), "rounds": 3, "batches": (1, 8)}


def run(tmp_path, extra=None, model=STUDENT, task=None, **options):
    parents = {"model": model, "teacher": TEACHER, **(extra or {})}
    config = EvaluateConfig(**(TIMED | options))
    task = task or toy_task().opened()
    return evaluate(StageCall(config=config, parents=parents, scratch=tmp_path, optional_task=task))


def cascade_entry(path, threshold, *, members=(STUDENT, TEACHER)):
    """Return an entry of a cascade that was calibrated for `members`."""
    small, large = members
    digests = (state_digest(small.model.module), state_digest(large.model.module))
    confidence = CONFIDENCES.bind("entropy")
    router = Router(small=small.ref, large=large.ref, digests=digests, confidence=confidence, threshold=threshold)
    router.write(path)
    return Entry(ref="cascade-1", report={}, files={ROUTER: path})


def correct(model):
    task = toy_task().opened()
    return torch.cat([task.correct(model(x_BCHW), y_B) for x_BCHW, y_B in task.batches("test", batch_size=7)])


class Shifted(TorchSession):
    """Answers of a runtime that is off by 0.25, or whose INT8 file always says class 1."""

    def __init__(self, module, is_int8):
        super().__init__(module, 1)
        self.is_int8 = is_int8

    def infer(self, x_BCHW):
        if self.is_int8:
            return np.tile(np.array([[0.0, 1.0, 0.0]], dtype=np.float32), (len(x_BCHW), 1))
        return super().infer(x_BCHW) + np.float32(0.25)


@pytest.fixture
def _shifted(monkeypatch):
    """Registers the runtime "shifted" for one test."""
    monkeypatch.setattr(RUNTIMES, "_cards", dict(RUNTIMES._cards))

    @RUNTIMES.register("shifted")
    @contextmanager
    def shifted(entry, *, precision: str = "fp32"):
        """Add a quarter to every logit."""
        yield Shifted(entry.model.module, precision == "int8")


def test_accuracy_costs_and_ratios(tmp_path):
    report = run(tmp_path).report
    assert json.loads(json.dumps(report)) == report
    for name, entry in (("teacher", TEACHER), ("student", STUDENT)):
        found = report["models"][name]
        assert found["test_accuracy"] == pytest.approx(float(correct(entry.model).mean()))
        assert found["interval"][0] <= found["test_accuracy"] <= found["interval"][1]
        assert found["macs"] == cost_of(entry.model).macs
        peak = peak_memory_bytes(entry.model.module, entry.model.input.example(1))
        assert found["peak_memory_bytes"] == peak > 0
        assert set(found["latency_ms"]) == {"torch/b1", "torch/b8"}
    ratios = report["ratios"]["student"]
    assert ratios["macs"] == ratios["peak_memory_bytes"] == 1.0
    assert set(ratios["latency/torch/b8"]) == {"value", "low", "high"}
    assert set(report["ratios"]) == {"student"}
    assert report["parity"]["max_abs"] == 0.0
    assert report["cost"]["params"] == cost_of(STUDENT.model).params
    assert report["num_test"] == 48
    assert report["notes"] == []


def test_predictions_hold_a_flag_for_every_input(tmp_path):
    path = run(tmp_path).files[PREDICTIONS]
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays.files) == {"labels", "correct_teacher", "correct_student"}
        assert arrays["labels"].tolist() == toy_task().opened().split("test").labels_B.tolist()
        assert arrays["correct_student"].tolist() == correct(STUDENT.model).tolist()


def test_default_runtimes_that_are_missing_are_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(RUNTIMES, "_cards", {"torch": RUNTIMES["torch"]})
    report = run(tmp_path, runtimes=EvaluateConfig().runtimes).report
    assert set(report["models"]["student"]["latency_ms"]) == {"torch/b1", "torch/b8"}
    assert any("onnxruntime" in note for note in report["notes"])


def test_a_misspelt_runtime_is_an_error(tmp_path):
    with pytest.raises(UnknownName, match="'torch'"):
        run(tmp_path, runtimes=("torhc",))


def test_runtimes_are_checked_before_any_test_data_is_read(tmp_path):
    with pytest.raises(UnknownName, match="'torch'"):
        run(tmp_path, runtimes=("torch", "torhc"), task=toy_task())


def test_a_runtime_that_is_named_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("compress.stages.evaluate.is_installed", lambda name: False)
    with pytest.raises(ValueError, match="runtime 'torch' is not installed here"):
        run(tmp_path)


def test_the_stage_does_not_open_the_test_split_itself(tmp_path):
    with pytest.raises(SealedTestSplit):
        run(tmp_path, task=toy_task())


def test_progress_is_told_over_runtimes_and_batch_sizes(tmp_path, capsys):
    run(tmp_path)
    assert "evaluate: 2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"batches": (1, 0)}, r"batches=\(1, 0\): each must be 1 or more"),
        ({"batches": ()}, "batches is empty"),
        ({"runtimes": ()}, "runtimes is empty"),
        ({"rounds": 0}, "rounds=0: must be 1 or more"),
        ({"num_threads": 0}, "num_threads=0: must be 1 or more"),
    ],
)
def test_mistakes_are_found_before_any_work(option, said):
    with pytest.raises(ValueError, match=said):
        EvaluateConfig(**option)


@pytest.mark.slow
@pytest.mark.usefixtures("_shifted")
def test_parity_tells_how_far_a_runtime_is_off(tmp_path):
    parity = run(tmp_path, runtimes=("torch", "shifted")).report["parity"]
    assert parity["max_abs"] == pytest.approx(0.25, abs=1e-5)
    assert parity["top1_agree"] == 1.0
    assert parity["by_runtime"]["torch"]["max_abs"] == 0.0


@pytest.mark.slow
@pytest.mark.usefixtures("_shifted")
def test_int8_is_judged_by_its_own_answers(tmp_path):
    path = tmp_path / INT8
    path.write_bytes(b"x" * 1234)
    model = Entry(ref="export-1", report={}, files={INT8: path}, loaded=STUDENT.model)
    result = run(tmp_path, model=model, runtimes=("shifted", "torch"))
    report, labels_N = result.report, toy_task().opened().split("test").labels_B
    found = report["models"]["int8"]
    assert found["test_accuracy"] == pytest.approx(float((labels_N == 1).double().mean()))
    assert found["size_bytes"] == 1234
    assert found["macs"] == report["models"]["student"]["macs"]
    assert set(found["latency_ms"]) == {"shifted/b1", "shifted/b8"}
    assert set(report["models"]["student"]["latency_ms"]) == {f"{r}/b{b}" for r in ("shifted", "torch") for b in (1, 8)}
    assert report["ratios"]["int8"]["size_bytes"] == pytest.approx(report["models"]["teacher"]["size_bytes"] / 1234)
    with np.load(result.files[PREDICTIONS]) as arrays:
        assert "correct_int8" in arrays.files


@pytest.mark.parametrize(("threshold", "share"), [(1.0, 0.0), (-1.0, 1.0)])
def test_the_cascade_is_routed_for_real(tmp_path, threshold, share):
    report = run(tmp_path, {"cascade": cascade_entry(tmp_path / ROUTER, threshold)}).report
    found, small, large = (report["models"][name] for name in ("cascade", "student", "teacher"))
    assert found["route_shares"] == [1 - share, share]
    assert found["test_accuracy"] == (large if share else small)["test_accuracy"]
    assert found["validation_accuracy"] == (large if share else small)["validation_accuracy"]
    assert found["macs"] == small["macs"] + share * large["macs"]
    assert set(found["latency_ms"]) == {"torch/b1", "torch/b8"}
    assert all(value > 0 for value in found["latency_ms"].values())
    assert set(report["ratios"]["cascade"]["latency/torch/b8"]) == {"value", "low", "high"}
    assert report["notes"] == []


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ((TEACHER, TEACHER), r"train-2 as its small network, but role 'model' .*run stage cascade again"),
        ((STUDENT, STUDENT), r"export-1 as its large network, but role 'teacher' .*run stage cascade again"),
    ],
)
def test_a_cascade_of_another_member_is_refused_before_any_test_data_is_read(tmp_path, members, said):
    with pytest.raises(ValueError, match=said):
        run(tmp_path, {"cascade": cascade_entry(tmp_path / ROUTER, 0.5, members=members)}, task=toy_task())


def test_a_cascade_fits_equal_weights_under_another_name(tmp_path):
    renamed = Entry.of(STUDENT.model.copy(), "distill-7")
    entry = cascade_entry(tmp_path / ROUTER, 0.5, members=(renamed, TEACHER))
    assert run(tmp_path, {"cascade": entry}).report["models"]["cascade"]
