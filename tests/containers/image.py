"""The image under test: built by `make image`, and asked questions by running commands in it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.containers.dag import LOCKS
from tests.containers.engine import CLIENT, Engine

ROOT = Path(__file__).parents[2]
NAME = "secateur-under-test:containers"
#: `docker run` with the locks of `dag.LOCKS` and no network at all.
LOCKED = (
    "run",
    "--rm",
    "--read-only",
    "--network=none",
    *(f"--cap-drop={name}" for name in LOCKS["cap_drop"]),
    *(f"--security-opt={name}" for name in LOCKS["security_opt"]),
    *(f"--tmpfs={place}:{options}" for place, options in LOCKS["tmpfs"].items()),
)


def make(engine: Engine, target: str, **variables: str) -> str:
    """Run a target of the Makefile with this engine; return what it said.

    Raises:
        AssertionError: It failed; the end of what it said is in the message.
    """
    given = {"DOCKER": CLIENT, "IMAGE": NAME, "BUILD_OPTIONS": "--network=host", **variables}
    environment = {**os.environ, "DOCKER_HOST": engine.host, "BUILDKIT_PROGRESS": "plain"}
    done = subprocess.run(
        ["make", target, *(f"{name}={value}" for name, value in given.items())],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"make {target}: {done.returncode}\n{done.stdout[-6000:]}"
    return done.stdout


def inspect(engine: Engine) -> dict[str, Any]:
    """Return what the engine knows of the image."""
    (found,) = json.loads(engine.docker("image", "inspect", NAME).stdout)
    return dict(found)


def ask(engine: Engine, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command in the image, locked; a failing command is an answer too."""
    return engine.docker(*LOCKED, *options, NAME, *command, check=False)
