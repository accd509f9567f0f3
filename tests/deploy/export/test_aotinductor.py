"""AOTInductor packages: compiled, stored, promoted, pulled and run; refused where they do not belong."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress import catalogue
from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.core.stage import Entry, StageCall
from compress.core.task import TASKS
from compress.graph.groups import trace_groups
from compress.graph.surgery import apply, plan_from_kept
from compress.measure.runtimes import RUNTIMES, paired_sessions
from compress.store import LocalStore
from deploy.export import aotinductor_from_model as module
from deploy.export.aotinductor_from_model import CompilerMissing, UnsafeArchive, check_archive, require_compiler
from deploy.latency import open_artifact
from deploy.promote import promote
from deploy.pull import aotinductor_file, onnx_file, pull
from deploy.runtime.aotinductor import AotSession, WrongMachine, mismatch
from deploy.runtime.onnxruntime import OnnxSession
from deploy.stages.export import ExportConfig, export
from tests.deploy.export.trained_toy import trained_toy
from tests.deploy.stored_run import evaluation_report, fresh_uri, put, put_run
from tests.toys import toy_entry, toy_task

catalogue.load()

ROOT = Path(__file__).parents[3]
HERE = {
    "torch": torch.__version__,
    "platform": sys.platform,
    "device": "cpu",
    "cpu_isa": [],
    "num_threads": 1,
    "input_shape": [1, 8, 8],
}


def here(**changes: Any) -> dict[str, Any]:
    return {**HERE, "machine": platform.machine(), **changes}


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"0")
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"torch": "1.0"}, "torch 1.0, and here is"),
        ({"platform": "win32"}, "platform win32"),
        ({"machine": "riscv64"}, "processor riscv64"),
        ({"device": "cuda", "cuda": "1.0", "compute_capability": "9.0"}, "CUDA 1.0"),
        ({"device": "cuda", "cuda": str(torch.version.cuda), "compute_capability": "1.0"}, "compute capability 1.0"),
    ],
)
def test_a_package_for_another_machine_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = archive(tmp_path / "model.pt2", "model/a.so")
    path.with_name("model.pt2.json").write_text(json.dumps(here(**changes)))
    with pytest.raises(WrongMachine, match=re.escape(said)):
        AotSession(path)


def test_a_package_for_a_better_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "fma3": True, "avx512_f": True})
    assert mismatch(here(cpu_isa=["AVX2"])) == ""
    assert mismatch(here(cpu_isa=["AVX512", "AVX512_VNNI"])).startswith("a processor with AVX512, AVX512_VNNI, which")


@pytest.mark.parametrize("name", ["model/data.pkl", "model/models/model.json.pt2", "../a.so", "/a.so", "model/a.py"])
def test_an_archive_with_anything_else_in_it_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeArchive, match=re.escape(name)):
        check_archive(archive(tmp_path / "model.pt2", "model/a.so", name))


def test_an_archive_without_a_library_and_no_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="no compiled library"):
        check_archive(archive(tmp_path / "model.pt2", "model/byteorder"))
    (tmp_path / "text.pt2").write_text("hello")
    with pytest.raises(UnsafeArchive, match=r"is no \.pt2 archive"):
        check_archive(tmp_path / "text.pt2")


def test_a_changed_archive_and_a_missing_manifest_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "model.pt2", "model/a.so")
    with pytest.raises(ValueError, match=r"model\.pt2\.json does not exist"):
        AotSession(path)
    path.with_name("model.pt2.json").write_text(json.dumps(here(archive={"sha256": "0" * 64})))
    with pytest.raises(ValueError, match="not the archive that its manifest describes"):
        AotSession(path)


def test_what_cannot_be_compiled_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="use one of cpu, cuda"):
        require_compiler("tpu")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(CompilerMissing, match="install g\\+\\+"):
        require_compiler("cpu")
    config = ExportConfig(variants=(), aotinductor="cpu")
    call = StageCall(
        config=config, parents={"model": toy_entry(trained_toy())}, scratch=tmp_path, optional_task=toy_task()
    )
    result = export(call)
    assert result.report["aotinductor"]["status"] == "skipped"
    assert set(result.files) == {"model.onnx"}


def test_a_folder_without_a_package_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="export with the option aotinductor"):
        aotinductor_file(tmp_path)


def need_a_compiler() -> None:
    try:
        require_compiler("cpu")
    except CompilerMissing as error:
        pytest.skip(str(error))


def compressed_digits() -> Model:
    """Return a ResNet-8 for the digits with half of its channels."""
    model = Model.build(BUILDERS.bind("resnet_cifar", depth=8), TASKS.bind("digits")().input, seed=0)
    groups = trace_groups(model.module, model.input.example(2))
    kept = {group.name: torch.arange(group.num_channels) % 2 == 0 for group in groups}
    return apply(model, plan_from_kept(groups, kept), stage="prune", config={})


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compressed digits model after export, promotion into a registry and a pull."""
    need_a_compiler()
    root, model = tmp_path_factory.mktemp("aotinductor"), compressed_digits()
    uri, store = fresh_uri(root), LocalStore(root / "store")
    config = ExportConfig(variants=(), aotinductor="cpu", validation_images=64)
    (root / "scratch").mkdir()
    call = StageCall(
        config=config,
        parents={"model": Entry.of(model)},
        scratch=root / "scratch",
        optional_task=TASKS.bind("digits")(),
    )
    result = export(call)
    assert result.report["aotinductor"]["status"] == "built", result.report["aotinductor"]
    refs = put_run(store, root / "files")
    role = {"model": refs["prune"]}
    options = config.as_json()
    refs["export"] = put(store, "export", role, result.report, model=result.model, files=result.files, config=options)
    role = {"model": refs["export"], "teacher": refs["train"]}
    flags = {"predictions.npz": root / "files" / "predictions.npz"}
    refs["evaluate"] = put(store, "evaluate", role, evaluation_report(), files=flags)
    verdict = {"passed": True, "reasons": [], "checks": []}
    refs["gate"] = put(store, "gate", {"evaluation": refs["evaluate"]}, verdict)
    assert promote(store, uri, "digits", refs["export"], refs["gate"])["promoted"]
    entry = store.get(refs["export"])
    with RUNTIMES.bind("aotinductor")(entry) as session:
        assert (session.name, session.device, session.num_threads) == ("aotinductor", "cpu", 1)
        assert session.infer(model.input.example(3).numpy()).shape == (3, 10)
    return pull("models:/digits@champion", root / "digits", uri=uri)


@pytest.mark.slow
def test_a_pulled_package_answers_like_torch_and_is_timed_against_onnx_runtime(
    pulled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = compressed_digits()
    session, rival = open_artifact(aotinductor_file(pulled)), OnnxSession(onnx_file(pulled))
    assert session.input_shape == model.input.shape
    said = []
    for batch in (1, 2, 7, 32, 100):
        x_BCHW = model.input.example(batch)
        np.testing.assert_allclose(session.infer(x_BCHW.numpy()), model(x_BCHW).numpy(), atol=1e-4, rtol=0)
        if batch in (1, 32):
            worst = float(np.abs(session.infer(x_BCHW.numpy()) - model(x_BCHW).numpy()).max())
            sessions = {"aotinductor": session, "onnxruntime": rival}
            timed = paired_sessions(sessions, x_BCHW.numpy(), rounds=24, warmup=3)
            ratio, median = timed.ratio("onnxruntime", "aotinductor"), timed.median_ms
            assert ratio.low > 0
            said.append(
                f"batch {batch}: AOTInductor {median['aotinductor']:.3f} ms, ONNX Runtime {median['onnxruntime']:.3f} "
                f"ms, {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] of its speed; parity {worst:.1e}"
            )
    with capsys.disabled():
        print("\n" + "\n".join(said))


@pytest.mark.slow
def test_the_package_runs_in_a_process_that_compiles_nothing(pulled: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; from deploy.runtime.aotinductor import AotSession;"
        "x = np.load(sys.argv[2])['x_BCHW']; y = AotSession(Path(sys.argv[1])).infer(x);"
        "print(np.abs(y - np.load(sys.argv[2])['logits_BC']).max())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(aotinductor_file(pulled)), str(pulled / "example.npz")],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1e-4


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_pulled_package_that_was_changed_is_refused(pulled: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    shutil.copyfile(aotinductor_file(pulled), path)
    shutil.copyfile(f"{aotinductor_file(pulled)}.json", f"{path}.json")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data/models/model.pkl", b"\x80\x04.")
    with pytest.raises(UnsafeArchive, match=r"model\.pkl"):
        AotSession(path)
