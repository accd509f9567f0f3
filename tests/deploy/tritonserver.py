"""A real tritonserver for tests: the one in nvidia-pytriton, which has the Python backend only.

It needs an environment of its own (numpy below 2), named by SECATEUR_TRITON_VENV or `.venv-triton` in the clone:

    uv venv -p 3.11 .venv-triton
    uv pip install --python .venv-triton/bin/python nvidia-pytriton==0.7.0 onnxruntime==1.31.1 'numpy<2'
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENV = Path(os.environ.get("SECATEUR_TRITON_VENV", ROOT / ".venv-triton"))


def missing() -> str:
    """Return why no server can run here, or an empty string."""
    if sys.platform != "linux":
        return f"no tritonserver for {sys.platform}"
    if _site() is None:
        return f"no tritonserver: install nvidia-pytriton into {VENV.name} (see tests/deploy/tritonserver.py)"
    try:
        import tritonclient.grpc  # noqa: F401
    except ImportError as error:
        return f"no Triton client: {error}; install tritonclient[grpc,http]"
    return ""


def _site() -> Path | None:
    return next((path.parents[2] for path in VENV.glob("lib/python3*/site-packages/pytriton/tritonserver/bin")), None)


@dataclass(frozen=True)
class Server:
    """A server that runs; `http`, `grpc` are HOST:PORT."""

    process: subprocess.Popen[bytes]
    http: str
    grpc: str
    log: Path


@contextmanager
def serving(repository: Path, folder: Path, *models: str, packages: str = "") -> Iterator[Server]:
    """Run a server on `repository` in explicit mode, `models` loaded, and stop it in the end.

    `packages` is a folder with what its Python backend shall find besides its own packages.
    """
    site = _site()
    assert site is not None
    triton = site / "pytriton" / "tritonserver"
    backends, version = folder / "backends", site.parent.name.removeprefix("python")
    if not backends.exists():
        shutil.copytree(triton / "backends" / "python", backends / "python")
        stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy(stub, backends / "python" / stub.name)
    query = [str(VENV / "bin" / "python"), "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"]
    library = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    home = _with(site, packages, folder / "python") if packages else VENV
    environment = {
        **os.environ,
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{library}",
        "OMP_NUM_THREADS": "1",
    }
    http, grpc = _free_ports()
    command = [str(triton / "bin" / "tritonserver"), "--model-repository", str(repository)]
    command += ["--backend-directory", str(backends), "--model-control-mode", "explicit", "--allow-metrics", "false"]
    command += ["--exit-timeout-secs", "5"]
    command += ["--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1"]
    command += ["--http-port", str(http), "--grpc-port", str(grpc)]
    command += [word for model in models for word in ("--load-model", model)]
    log = folder / "tritonserver.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    server = Server(process, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log)
    try:
        _wait(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _with(site: Path, packages: str, folder: Path) -> Path:
    """Return an environment that sees the server's packages and, after them, others.

    The interpreter inside the Python backend takes its packages from the environment whose python comes first in PATH.
    """
    subprocess.run([str(VENV / "bin" / "python"), "-m", "venv", "--without-pip", str(folder)], check=True)
    (folder / site.relative_to(VENV) / "packages.pth").write_text(f"{site}\n{packages}\n")
    return folder


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for found in (one, other):
            found.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _wait(server: Server) -> None:
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    client, end = InferenceServerClient(server.grpc), time.monotonic() + 120
    while time.monotonic() < end and server.process.poll() is None:
        try:
            if client.is_server_ready():
                client.close()
                return
        except InferenceServerException:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"tritonserver did not start:\n{server.log.read_text()[-4000:]}")
