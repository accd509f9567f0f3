"""The compressed digits model as an AOTInductor package: compiled, stored in MLflow, pulled, run, served by Triton."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from compress import cli
from compress.core.model import CorruptModel, Model
from compress.core.stage import Entry, Ref
from compress.measure.runtimes import RUNTIMES
from compress.run import run_stage, task_of
from compress.store import LocalStore
from deploy.description import read_package
from deploy.export.aotinductor_from_model import CompilerMissing, UnsafeArchive, require_compiler
from deploy.promote import promote
from deploy.pull import aotinductor_file, load, pull
from deploy.runtime.aotinductor import AotSession
from deploy.triton import CONFIG
from tests.deploy import tritonserver
from tests.deploy.mlflow_server import mlflow_server
from tests.deploy.stored_run import evaluation_report, put
from tests.deploy.triton_load import ask

pytestmark = [pytest.mark.slow, pytest.mark.own_target]

ROOT = Path(__file__).parents[2]
NAME = "models:/digits@champion"
TRAIN = {"builder": {"name": "resnet_cifar", "depth": 8}, "epochs": 2, "batch_size": 64}
PRUNE = {"budget": "macs=0.5", "criterion": "magnitude", "epochs": 1, "batch_size": 64}
EXPORT = {"aotinductor": "cpu", "variants": [], "validation_images": 200}


@dataclass(frozen=True)
class Promoted:
    """The exported entry, and the MLflow server that holds its package."""

    entry: Entry
    uri: str

    @property
    def model(self) -> Model:
        """The compressed network."""
        return self.entry.model


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Promoted]:
    """A ResNet-8 that learned the digits, cut to half of its MACs, exported, and promoted over HTTP."""
    try:
        require_compiler("cpu")
    except CompilerMissing as error:
        pytest.skip(str(error))
    root, task, refs = tmp_path_factory.mktemp("aotinductor"), task_of("digits"), dict[str, Ref]()
    store = LocalStore(root / "store")
    refs["train"] = run_stage("train", TRAIN, {}, task, store).entry.ref
    refs["prune"] = run_stage("prune", PRUNE, {"model": refs["train"]}, task, store).entry.ref
    refs["export"] = run_stage("export", EXPORT, {"model": refs["prune"]}, task, store).entry.ref
    entry = store.get(refs["export"])
    assert entry.report["aotinductor"]["status"] == "built", entry.report["aotinductor"]
    flags = root / "predictions.npz"
    np.savez(flags, correct_teacher=np.ones(4, np.uint8), correct_student=np.ones(4, np.uint8))
    role = {"model": refs["export"], "teacher": refs["train"]}
    evaluation = put(store, "evaluate", role, evaluation_report(), files={"predictions.npz": flags})
    verdict = {"passed": True, "reasons": [], "checks": []}
    gate = put(store, "gate", {"evaluation": evaluation}, verdict)
    with mlflow_server(root / "mlflow") as uri:
        assert promote(store, uri, "digits", refs["export"], gate)["promoted"]
        yield Promoted(entry, uri)


@pytest.fixture(scope="module")
def pulled(promoted: Promoted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as anybody gets it who did not ask for machine code in a server."""
    return pull(NAME, tmp_path_factory.mktemp("pulled") / "digits", uri=promoted.uri)


def pictures(count: int) -> np.ndarray:
    """Return inputs of the digits' validation split."""
    x_BCHW, _ = next(iter(task_of("digits").batches("validation", batch_size=count, limit=count)))
    return x_BCHW.numpy()


MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from compress.measure.runtimes import paired_sessions
from deploy.latency import open_artifact
from deploy.pull import aotinductor_file, load, onnx_file
folder, found = Path(sys.argv[1]), {}
x_NCHW = np.load(sys.argv[2])
expected_NC = np.load(sys.argv[3])
for batch in (1, 2, 7, 32, len(x_NCHW)):
    x_BCHW = x_NCHW[:batch]
    sessions = {"aotinductor": open_artifact(aotinductor_file(folder)), "onnxruntime": open_artifact(onnx_file(folder))}
    timed = paired_sessions(sessions, x_BCHW, rounds=24, warmup=3)
    ratio = timed.ratio("onnxruntime", "aotinductor")
    found[batch] = {
        "parity": float(np.abs(sessions["aotinductor"].infer(x_BCHW) - expected_NC[:batch]).max()),
        "median_ms": timed.median_ms, "ratio": [ratio.value, ratio.low, ratio.high],
    }
print(json.dumps(found))
"""


def test_the_pulled_package_answers_in_a_new_process_and_is_timed_against_onnx_runtime(
    promoted: Promoted, pulled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x_NCHW = pictures(100)
    np.save(tmp_path / "x.npy", x_NCHW)
    np.save(tmp_path / "logits.npy", promoted.model(torch.from_numpy(x_NCHW)).numpy())
    command = [sys.executable, "-c", MEASURE, str(pulled), str(tmp_path / "x.npy"), str(tmp_path / "logits.npy")]
    environment = {**os.environ, "PATH": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\nAOTInductor package of {pulled.resolve().name}, run in a new process that has no compiler:")
        for batch, one in found.items():
            median, (value, low, high) = one["median_ms"], one["ratio"]
            print(
                f"batch {batch}: AOTInductor {median['aotinductor']:.3f} ms, ONNX Runtime {median['onnxruntime']:.3f} "
                f"ms, {value:.2f} times as fast [{low:.2f}, {high:.2f}]; parity {one['parity']:.1e}"
            )
    assert max(one["parity"] for one in found.values()) <= 1e-4
    assert all(0 < one["ratio"][1] <= one["ratio"][0] <= one["ratio"][2] for one in found.values())


def test_the_entry_runs_as_a_runtime_and_the_pulled_model_is_the_same(promoted: Promoted, pulled: Path) -> None:
    x_BCHW = pictures(8)
    expected = promoted.model(torch.from_numpy(x_BCHW)).numpy()
    with RUNTIMES.bind("aotinductor")(promoted.entry) as session:
        assert (session.name, session.device, session.num_threads) == ("aotinductor", "cpu", 1)
        assert np.abs(session.infer(x_BCHW) - expected).max() <= 1e-4
    assert np.abs(load(pulled)(torch.from_numpy(x_BCHW)).numpy() - expected).max() == 0


def test_the_archive_holds_no_pickle_and_no_place(pulled: Path) -> None:
    path = aotinductor_file(pulled)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert sum(name.endswith(".so") for name in parts) >= 1
    for name, data in parts.items():
        assert not name.endswith((".pkl", ".pt", ".cpp")), name
        assert not data.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), f"{name} is a pickle"
        assert str(ROOT).encode() not in data, name
        assert tempfile.gettempdir().encode() + b"/secateur" not in data, name
    manifest = json.loads(path.with_name("model.pt2.json").read_text())
    assert manifest["torch"] == torch.__version__
    assert manifest["parity_max_abs"] <= 1e-4


def test_a_pulled_package_that_was_changed_is_not_loaded(pulled: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    shutil.copyfile(aotinductor_file(pulled), path)
    shutil.copyfile(f"{aotinductor_file(pulled)}.json", f"{path}.json")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data/models/model.pkl", b"\x80\x04.")
    with pytest.raises(UnsafeArchive, match=r"model\.pkl"):
        AotSession(path)
    copy = tmp_path / "copy"
    shutil.copytree(pulled, copy)
    manifest = Path(f"{aotinductor_file(copy)}.json")
    manifest.write_text(manifest.read_text().replace(torch.__version__, "0"))
    with pytest.raises(CorruptModel, match=r"model\.pt2\.json is missing or was changed"):
        aotinductor_file(copy)
    shutil.copyfile(f"{aotinductor_file(pulled)}.json", manifest)
    said = read_package(copy)
    (copy / "package.json").write_text(json.dumps(said | {"on_request": {"aotinductor": f"../{path.name}"}}))
    with pytest.raises(CorruptModel, match="no name of a Triton model"):
        aotinductor_file(copy)


def test_triton_sees_machine_code_only_where_it_was_asked_for(
    promoted: Promoted, pulled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_package(pulled)["triton"]["models"] == ["digits"]
    assert not list(pulled.glob("*aotinductor*"))
    asked = tmp_path / "asked"
    monkeypatch.setattr(
        sys, "argv", ["secateur", "pull", NAME, "--to", str(asked), "--uri", promoted.uri, "--also", "aotinductor"]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code in (0, None)
    assert read_package(asked)["triton"]["models"] == ["digits", "digits_aotinductor"]
    assert sorted(path.name for path in (asked / "digits_aotinductor" / "1").iterdir()) == [
        "model.pt2", "model.pt2.json", "model.py",
    ]  # fmt: skip
    text = (asked / "digits_aotinductor" / CONFIG).read_text()
    assert 'backend: "python"' in text
    assert "KIND_CPU" in text
    assert aotinductor_file(asked) == asked / "digits_aotinductor" / "1" / "model.pt2"
    assert asked.resolve().name.endswith("-aotinductor")


@pytest.mark.skipif(bool(tritonserver.missing()), reason=tritonserver.missing())
def test_a_real_triton_whose_python_finds_torch_answers_with_the_package(
    promoted: Promoted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tritonclient.grpc
    import tritonclient.http

    link = pull(NAME, tmp_path / "served", uri=promoted.uri, backend="python", also=["aotinductor"])
    x_NCHW = pictures(100)
    expected = promoted.model(torch.from_numpy(x_NCHW)).numpy()
    packages, worst = str(Path(torch.__file__).parents[1]), 0.0
    with tritonserver.serving(link, tmp_path, "digits", "digits_aotinductor", packages=packages) as running:
        for protocol, address in ((tritonclient.grpc, running.grpc), (tritonclient.http, running.http)):
            client = protocol.InferenceServerClient(address)
            for start, stop in ((0, 1), (1, 3), (3, 35), (36, 100)):
                version, logits = ask(protocol, client, "digits_aotinductor", x_NCHW[start:stop])
                assert version == "1"
                worst = max(worst, float(np.abs(logits - expected[start:stop]).max()))
            client.close()
    with capsys.disabled():
        print(f"\ntritonserver ran the AOTInductor package: largest difference to the library {worst:.1e}")
    assert worst <= 1e-4
