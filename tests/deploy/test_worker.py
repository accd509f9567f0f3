"""The process that imports once: what it answers is what the caller would have computed, and nothing outlives it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from deploy import worker
from deploy.step import make, run_step
from deploy.worker import RUNS_A_STAGE, SOCKET, WorkerLost, serving
from tests.deploy import errands
from tests.deploy.stored_run import fresh_uri

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SOCKET, "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "SECATEUR_PIPELINE_RUN"):
        monkeypatch.delenv(name, raising=False)


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_so()


def is_gone(process: int) -> bool:
    import psutil

    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# Without a server, or with one that is no good


def test_without_a_server_the_function_runs_here() -> None:
    assert errands.answer(3)["process"] == os.getpid()
    assert errands.answer.__name__ == "answer"


def test_the_function_that_runs_a_stage_is_known_by_its_name() -> None:
    assert f"{make.__module__}:{make.__qualname__}" == RUNS_A_STAGE


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[socket.socket], None]], None]]:
    """Let a function of this process play the server for one connection."""
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/worker")
        server.listen()
        monkeypatch.setenv(SOCKET, f"{folder}/worker")
        threads: list[threading.Thread] = []

        def play(part: Callable[[socket.socket], None]) -> None:
            def once() -> None:
                with server.accept()[0] as caller:
                    part(caller)

            threads.append(threading.Thread(target=once, daemon=True))
            threads[-1].start()

        yield play
        for thread in threads:
            thread.join(10)


def test_an_end_without_an_answer_is_said(pretended: Any) -> None:
    def read_and_leave(caller: socket.socket) -> None:
        caller.recv(1 << 20)

    pretended(read_and_leave)
    with pytest.raises(WorkerLost, match=r"tests\.deploy\.errands:answer ended without an answer"):
        errands.answer(1)


def test_an_end_before_the_request_was_read_is_said(pretended: Any) -> None:
    pretended(lambda caller: time.sleep(0.2))
    with pytest.raises(WorkerLost, match="ended without an answer"):
        errands.answer(1)


def test_an_end_within_the_answer_is_said(pretended: Any) -> None:
    def answer_half(caller: socket.socket) -> None:
        caller.recv(1 << 20)
        caller.sendall((100).to_bytes(worker.LENGTH_BYTES, "big") + b'{"result": [1, 2')

    pretended(answer_half)
    with pytest.raises(WorkerLost, match="ended without an answer"):
        errands.answer(1)


def test_nobody_at_the_socket_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    moments = iter([0.0, 1.0, 29.0, 31.0])
    slept: list[float] = []
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: next(moments), sleep=slept.append))
    monkeypatch.setenv(SOCKET, str(tmp_path / "worker"))
    with pytest.raises(WorkerLost, match=f"unset {SOCKET}"):
        errands.answer(1)
    assert len(slept) == 2, "a server that is still starting is waited for"


# With a real server


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("ERRAND_OF_THE_SERVER", "old")
        with serving() as environment:
            yield environment


@pytest.fixture
def served(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("served")
class TestServed:
    def test_arguments_and_result_go_through(self) -> None:
        got = errands.answer(3, name="drei")
        assert (got["number"], got["name"]) == (3, "drei")
        assert got["process"] != os.getpid()

    def test_every_call_has_a_process_of_its_own(self) -> None:
        first, second = errands.answer(1), errands.answer(2)
        assert first["process"] != second["process"]
        assert first["calls"] == second["calls"] == 1, "what a call leaves behind reaches the next one"

    def test_calls_run_beside_each_other(self, tmp_path: Path) -> None:
        paths = [str(tmp_path / "a"), str(tmp_path / "b")]
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(errands.meet, paths, reversed(paths))) == [True, True]

    def test_a_call_within_a_call_stays_there(self) -> None:
        outer, inner = errands.nested()
        assert outer == inner != os.getpid()

    def test_output_goes_where_the_callers_goes(self, capfd: pytest.CaptureFixture[str]) -> None:
        errands.speak("to out", "to err")
        said = capfd.readouterr()
        assert sorted(said.out.splitlines()) == ["raw to out", "to out"]
        assert said.err.splitlines() == ["to err"]

    def test_folder_and_environment_are_the_callers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("ERRAND", "new")
        monkeypatch.delenv("ERRAND_OF_THE_SERVER")
        found = errands.surroundings("ERRAND", "ERRAND_OF_THE_SERVER", SOCKET)
        assert found["folder"] == str(tmp_path)
        assert found["values"] == {"ERRAND": "new", "ERRAND_OF_THE_SERVER": None, SOCKET: None}

    @pytest.mark.parametrize("number", [1, 3])
    def test_the_number_of_threads_is_the_callers(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", str(number))
        assert errands.surroundings()["threads"] == number

    def test_a_failure_is_raised_here_and_told_there(self, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(RuntimeError, match=r"^ValueError: there is no digit 11$"):
            errands.fail()
        assert "errands.py" in capfd.readouterr().err
        assert errands.answer(1)["number"] == 1

    def test_a_killed_call_is_lost_and_the_server_goes_on(self) -> None:
        with pytest.raises(WorkerLost, match="errands:die ended without an answer; the same command goes on"):
            errands.die()
        assert errands.answer(1)["number"] == 1

    def test_a_caller_that_dies_while_it_asks_harms_nobody(self, server: dict[str, str]) -> None:
        for sent in (b"", b"\0", (100).to_bytes(worker.LENGTH_BYTES, "big") + b'{"func'):
            with worker._connection(server[SOCKET]) as client:
                client.sendall(sent)
        assert errands.answer(1)["number"] == 1

    def test_a_call_ends_with_its_caller(self, tmp_path: Path) -> None:
        code = "import sys; from tests.deploy import errands; errands.linger(sys.argv[1])"
        caller = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "id")], cwd=ROOT)
        assert wait_until((tmp_path / "id").exists)
        child = int((tmp_path / "id").read_text())
        assert not is_gone(child)
        caller.kill()
        caller.wait()
        assert wait_until(lambda: is_gone(child), 10)

    def test_a_stage_gives_the_same_result_as_without(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        digits = {"name": "digits", "limit": 64, "validation": 40}
        config = {"builder": {"name": "resnet_cifar", "depth": 8, "width": 8}, "epochs": 1, "batch_size": 32}

        def trained(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
            workspace = tmp_path / name
            fresh_uri(workspace)
            more = {"task": json.dumps(digits), "workspace": str(workspace), "parent_run": ""}
            done = run_step("train", config=json.dumps(config), parents={}, **more)
            record = json.loads((Path(done["folder"]) / "entry.json").read_text())
            return done, {name: facts["sha256"] for name, facts in record["files"].items()}

        there, their_files = trained("there")
        monkeypatch.delenv(SOCKET)
        here, my_files = trained("here")
        assert there["ref"] == here["ref"]
        assert not there["reused"]
        assert there["metrics"]["validation_accuracy"] == here["metrics"]["validation_accuracy"]
        assert their_files == my_files


@pytest.mark.slow
def test_a_server_that_does_not_end_by_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def deaf(command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        started.append(real([sys.executable, "-c", "import time; time.sleep(300)"], **more))
        return started[0]

    monkeypatch.setattr(worker.subprocess, "Popen", deaf)
    with serving():
        assert started[0].poll() is None
    assert started[0].returncode == -signal.SIGKILL


STARTER = """
import os, sys, threading
from deploy.worker import serving
with serving() as environment:
    os.environ |= environment
    from tests.deploy import errands
    threading.Thread(target=errands.linger, args=(sys.argv[1],), daemon=True).start()
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["left", "killed"])
def test_server_and_calls_are_gone_when_the_starter_is_done_or_dead(tmp_path: Path, end: str) -> None:
    import psutil

    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-c", STARTER, str(tmp_path / "id")]
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as starter:
        try:
            assert wait_until((tmp_path / "id").exists)
            child = int((tmp_path / "id").read_text())
            servers = [process.pid for process in psutil.Process(starter.pid).children()]
            assert len(servers) == 1
            assert psutil.Process(child).ppid() == servers[0]
            assert starter.stdin is not None
            assert starter.stdout is not None
            if end == "left":
                starter.stdin.write("\n")
                starter.stdin.flush()
                assert starter.stdout.readline() == "left\n"
            else:
                starter.send_signal(signal.SIGKILL)
                starter.wait()
            assert wait_until(lambda: is_gone(servers[0]) and is_gone(child), 10)
        finally:
            starter.kill()
