"""A real PostgreSQL for tests: Debian's, started by hand on loopback with a password, thrown away afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "not-for-any-log"


def program(name: str) -> str:
    """Return where a server program lies; skip the test when there is none."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), "")
    if not found:
        pytest.skip(f"no PostgreSQL server here ({name} is missing): apt-get install postgresql")
    return found


def as_owner(command: list[str]) -> list[str]:
    """Return `command` for the user that may run a server, which refuses to run as root."""
    if os.geteuid():
        return command
    if not shutil.which("runuser") or subprocess.run(["id", "postgres"], capture_output=True).returncode:
        pytest.skip("PostgreSQL does not run as root and there is no user postgres: apt-get install postgresql")
    return ["runuser", "-u", "postgres", "--", *command]


@dataclass(frozen=True)
class Server:
    """A running server: the address of its empty database, and how to end it hard and start it again."""

    url: str
    restart: Callable[[], None]
    stop: Callable[[], None]
    start: Callable[[], None]


@contextmanager
def postgresql(folder: Path) -> Iterator[Server]:
    """Run a server whose data lie under `folder`.

    Args:
        folder: A short path that other users may enter, for example a `tempfile.TemporaryDirectory`.
    """
    initdb, server_control = program("initdb"), program("pg_ctl")
    secret = folder / "password"
    secret.write_text(PASSWORD)
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir()
    if not os.geteuid():
        as_owner([])
        for path in (secret, data):
            shutil.chown(path, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["-A", "scram-sha-256", "-U", "search", "--pwfile", str(secret), "--no-sync", "-E", "UTF8", "--locale=C"]
    subprocess.run(as_owner([initdb, "-D", str(data), *options]), check=True, capture_output=True, cwd=folder)
    listen = f"-h 127.0.0.1 -p {port} -k {data} -F"

    def control(*words: str) -> None:
        command = [server_control, "-D", str(data), "-w", "-l", str(data / "log"), "-o", listen, *words]
        subprocess.run(as_owner(command), check=True, stdout=subprocess.DEVNULL, cwd=folder)

    control("start")
    try:
        yield Server(
            f"postgresql://search:{PASSWORD}@127.0.0.1:{port}/postgres",
            restart=lambda: control("-m", "immediate", "restart"),
            stop=lambda: control("-m", "immediate", "stop"),
            start=lambda: control("start"),
        )
    finally:
        with suppress(subprocess.CalledProcessError):
            control("-m", "immediate", "stop")
