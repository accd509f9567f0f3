"""A process that has imported the heavy packages once and forks a child for every step of a local run.

Importing torch, MLflow and what else a stage needs takes longer than many a stage. In a cluster every
step has its own pod and pays once; on a laptop twenty steps follow each other, so `pipelines.local`
starts this server and names its socket in the environment. Components call the same functions either
way; the child runs them with the caller's environment, folder and output, and ends when the caller does.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Names the server's socket; without it steps run where they are called.
SOCKET = "SECATEUR_WORKER"
#: Imported at once: every step needs them.
EARLY = ("torch", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")
#: Imported before the first stage that really runs; when all work is reused, nobody needs them.
LATE = ("accelerate", "torch._dynamo", "torch_pruning", "optuna", "onnxruntime.quantization", "matplotlib.pyplot")
#: The function that runs a stage.
RUNS_A_STAGE = "deploy.step:make"
LENGTH_BYTES = 8

#: Whether this process is a child of the server; it runs what it was asked for itself.
_is_child = False


class WorkerLost(RuntimeError):
    """The server or its child ended before it answered."""


def delegated(function: Callable[P, T]) -> Callable[P, T]:
    """Run `function` in a child of the server that the environment names, if it names one.

    Arguments and result must be JSON.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        path = os.environ.get(SOCKET, "")
        if not path or _is_child:
            return function(*args, **kwargs)
        return _ask(path, f"{function.__module__}:{function.__qualname__}", args, kwargs)

    return call


@contextmanager
def serving() -> Iterator[dict[str, str]]:
    """Start a server; yield the environment that leads to it; stop it in the end."""
    with TemporaryDirectory(prefix="secateur-") as folder:
        path = str(Path(folder) / "worker")
        process = subprocess.Popen([sys.executable, "-m", "deploy.worker", path], stdin=subprocess.PIPE)
        try:
            yield {SOCKET: path}
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def serve(path: str) -> None:
    """Answer requests on `path` until standard input is closed."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    _end_with_input()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    preload(EARLY)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        caller, _ = server.accept()
        header, descriptors, _, _ = socket.recv_fds(caller, LENGTH_BYTES, 2)
        request = _message(caller, header)
        if request is not None and request["function"] == RUNS_A_STAGE:
            preload(LATE)
        if request is not None and os.fork() == 0:
            server.close()
            _answer(caller, request, descriptors)
        caller.close()
        for descriptor in descriptors:
            os.close(descriptor)


def preload(names: Iterable[str]) -> None:
    """Import modules and all pieces; what is not installed is left to the step that asks for it."""
    from compress import catalogue

    for name in names:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    catalogue.load()


def _answer(caller: socket.socket, request: Mapping[str, Any], descriptors: Iterable[int]) -> None:
    """Run one request in this forked child and leave."""
    global _is_child
    _is_child = True
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor, standard in zip(descriptors, (1, 2), strict=True):
        os.dup2(descriptor, standard)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ.pop(SOCKET, None)
    os.chdir(request["folder"])
    _set_threads()
    threading.Thread(target=_end_with, args=(caller,), daemon=True).start()
    try:
        module, _, name = request["function"].partition(":")
        result = getattr(importlib.import_module(module), name)(*request["args"], **request["kwargs"])
        reply = {"result": result}
    except BaseException as error:
        traceback.print_exc()
        reply = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.flush()
    sys.stderr.flush()
    _send(caller, reply)
    os._exit(0)


def _set_threads() -> None:
    """Apply OMP_NUM_THREADS, which the OpenMP runtime read long ago, in the server."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))


def _ask(path: str, function: str, args: Any, kwargs: Any) -> Any:
    request = {"function": function, "args": args, "kwargs": kwargs}
    request |= {"environment": dict(os.environ), "folder": str(Path.cwd())}
    data = json.dumps(request).encode()
    sys.stdout.flush()
    sys.stderr.flush()
    reply = None
    with _connection(path) as server, suppress(ConnectionError):
        length = len(data).to_bytes(LENGTH_BYTES, "big")
        socket.send_fds(server, [length], [sys.stdout.fileno(), sys.stderr.fileno()])
        server.sendall(data)
        reply = _message(server, _receive(server, LENGTH_BYTES))
    if reply is None:
        raise WorkerLost(f"the process that ran {function} ended without an answer; the same command goes on.")
    if "error" in reply:
        raise RuntimeError(reply["error"])
    return reply["result"]


def _connection(path: str) -> socket.socket:
    """Return a connection to the server, which may still be starting."""
    deadline = time.monotonic() + 30
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
            return client
        except OSError as error:
            client.close()
            if time.monotonic() > deadline:
                raise WorkerLost(f"no worker answers at {path}: unset {SOCKET}, or start again.") from error
            time.sleep(0.05)


def _send(to: socket.socket, data: Any) -> None:
    text = json.dumps(data).encode()
    to.sendall(len(text).to_bytes(LENGTH_BYTES, "big") + text)


def _message(source: socket.socket, header: bytes) -> Any:
    """Return the message that `header` announces, or None when the other side left before it was whole."""
    count = int.from_bytes(header, "big")
    text = _receive(source, count) if len(header) == LENGTH_BYTES else b""
    return json.loads(text) if text and len(text) == count else None


def _receive(source: socket.socket, count: int) -> bytes:
    """Return `count` bytes, or fewer when the other side is gone."""
    found = b""
    while len(found) < count and (more := source.recv(count - len(found))):
        found += more
    return found


def _end_with(caller: socket.socket) -> None:
    """End this child when its caller is gone: nobody waits for the answer."""
    if not caller.recv(1):
        os._exit(1)


def _end_with_input() -> None:
    """End this server and its children when standard input is closed, by whatever end of the starter."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os.killpg(0, signal.SIGKILL)

    os.setpgid(0, 0)
    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    serve(sys.argv[1])
