"""Debian's dockerd, started by hand on a socket in a folder, ended with its containers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Debian's client; another `docker` may come first in PATH.
CLIENT = "/usr/bin/docker"
PROGRAMS = {"dockerd": "docker.io", "debootstrap": "debootstrap"}
#: Without a bridge there is no need for iptables; containers run with the host's network or with none.
OPTIONS = ("--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=overlay2")


class Unavailable(RuntimeError):
    """This machine cannot run containers; says why."""


@dataclass(frozen=True)
class Engine:
    """A running dockerd.

    Attributes:
        folder: Holds its socket, its log and its data.
    """

    folder: Path

    @property
    def host(self) -> str:
        """Return the address that DOCKER_HOST wants."""
        return f"unix://{self.folder / 'docker.sock'}"

    def docker(self, *arguments: str, stdin: int | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the client; standard output and error come together in `stdout`.

        Raises:
            AssertionError: The exit status is not 0 and `check` was asked for.
        """
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
        done = subprocess.run(
            [CLIENT, *arguments],
            text=True,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        )
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}"
        return done


def install_programs() -> None:
    """Install the engine and debootstrap where they are missing.

    Raises:
        Unavailable: They are missing and cannot be installed, or this user may not start an engine.
    """
    if os.geteuid() != 0:
        raise Unavailable(
            "starting an engine and making a base image need root: run it as root, or in a machine of CI."
        )
    missing = sorted(package for program, package in PROGRAMS.items() if not shutil.which(program))
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Unavailable(f"{', '.join(missing)} is missing and there is no apt-get: install it by hand.")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        done = subprocess.run(["apt-get", "-qq", *command], env=quiet, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"apt-get {' '.join(command)} failed:\n{done.stderr}")


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """Start dockerd with its data in `folder`; remove its containers and end it, whatever happens.

    Raises:
        Unavailable: It does not start here; the end of its log is in the message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pid").unlink(missing_ok=True)
    made = Engine(folder)
    log = folder / "dockerd.log"
    places = {"--data-root": "root", "--exec-root": "exec", "--pidfile": "pid"}
    command = [
        "dockerd",
        *OPTIONS,
        *(f"{name}={folder / place}" for name, place in places.items()),
        f"--host={made.host}",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        _wait(made, process, log)
        yield made
    finally:
        _end(made, process)


def _wait(made: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while made.docker("version", check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable("dockerd does not start here:\n" + "\n".join(log.read_text().splitlines()[-12:]))
        time.sleep(0.5)


def _end(made: Engine, process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        containers = made.docker("ps", "--all", "--quiet", check=False).stdout.split()
        if containers:
            made.docker("rm", "--force", *containers, check=False)
        process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def remove(folder: Path) -> None:
    """Remove an ended engine's folder, with what it left mounted."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in sorted((one for one in mounted if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", place], check=False)
    shutil.rmtree(folder)
