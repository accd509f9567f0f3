from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compress.core.model import CorruptModel
from compress.measure.paired import PairedLatency
from deploy import latency
from deploy.export.onnx_from_model import onnx_from_model
from deploy.latency import compare, main, open_artifact
from deploy.runtime import tensorrt as runtime
from deploy.triton import hashes
from tests.toys import toy_model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("latency")
    return tuple(onnx_from_model(toy_model(seed), folder / f"m{seed}.onnx").path for seed in (0, 1))  # type: ignore[return-value]


def test_two_files_take_turns(files: tuple[Path, Path]) -> None:
    found = compare(*files, batch=2, rounds=5, warmup=1)
    assert {name: len(times) for name, times in found.samples_ms.items()} == {"a": 5, "b": 5}
    assert all(time > 0 for times in found.samples_ms.values() for time in times)


@pytest.mark.parametrize(
    ("times", "verdict"),
    [((4.0, 2.0), "B is faster"), ((2.0, 4.0), "A is faster"), ((3.0, 3.0), "no difference shown")],
)
def test_the_table_says_which_is_faster(
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    times: tuple[float, float],
    verdict: str,
) -> None:
    seen: list[tuple[int, int]] = []

    def fake(sessions: Mapping[str, Any], x_BCHW: Any, *, rounds: int, warmup: int, seed: int) -> PairedLatency:
        seen.append((len(x_BCHW), sessions["a"].num_threads))
        return PairedLatency({"a": (times[0],) * 3, "b": (times[1],) * 3})

    monkeypatch.setattr(latency, "paired_sessions", fake)
    monkeypatch.setenv("COLUMNS", "160")
    assert main([str(files[0]), str(files[1]), "--batch", "4", "--threads", "2"]) == 0
    assert seen == [(4, 2)]
    assert verdict in capsys.readouterr().out


def test_mistakes_are_told(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(files[0]), str(tmp_path / "none.onnx")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main([str(files[0]), "model.bin"]) == 2
    assert "no runtime for .bin; use .onnx, .plan, .engine" in capsys.readouterr().err


def test_files_of_different_tasks_are_not_compared(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = open_artifact

    def other(path: Path, *, num_threads: int = 1) -> Any:
        session = real(path, num_threads=num_threads)
        if path == files[1]:
            session.input_shape = (3, 8, 8)
        return session

    monkeypatch.setattr(latency, "open_artifact", other)
    with pytest.raises(ValueError, match="compare files of one task"):
        compare(*files)


@pytest.mark.parametrize("name", ["m.plan", "m.engine"])
def test_engines_go_to_tensorrt(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(runtime, "EngineSession", lambda path: f"engine of {path.name}")
    assert open_artifact(Path(name)) == f"engine of {name}"  # type: ignore[comparison-overlap]


def test_machine_code_of_unknown_origin_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    monkeypatch.setattr("deploy.runtime.aotinductor.AotSession", opened.append)
    path = tmp_path / "home" / "deep" / "model.pt2"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"machine code")
    with pytest.raises(ValueError, match="machine code of unknown origin"):
        open_artifact(path)
    home = tmp_path / "home"
    (home / "model.onnx").write_bytes(b"network")
    said = {"onnx": "model.onnx", "model": "deep", "triton": {"models": [], "version": 1}, "files": hashes(home)}
    (home / "package.json").write_text(json.dumps(said))
    open_artifact(path)
    path.write_bytes(b"other machine code")
    with pytest.raises(CorruptModel, match="changed after it was saved"):
        open_artifact(path)
    assert opened == [path]
