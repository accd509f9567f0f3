"""Small functions for the worker to run; its server imports this file by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from deploy.worker import delegated

_calls = 0


@delegated
def answer(number: int, *, name: str = "") -> dict[str, Any]:
    """Return the arguments, which process this is, and how often it was asked before."""
    global _calls
    _calls += 1
    return {"number": number, "name": name, "process": os.getpid(), "calls": _calls}


@delegated
def surroundings(*names: str) -> dict[str, Any]:
    """Return the folder, some of the environment, and torch's number of threads."""
    import torch

    values = {name: os.environ.get(name) for name in names}
    return {"folder": str(Path.cwd()), "values": values, "threads": torch.get_num_threads()}


@delegated
def nested() -> list[int]:
    """Return which process this is, and which one a delegated call from here runs in."""
    return [os.getpid(), answer(0)["process"]]


@delegated
def speak(out: str, err: str) -> None:
    """Write below Python's buffers and through them."""
    print(out)
    os.write(1, f"raw {out}\n".encode())
    print(err, file=sys.stderr)


@delegated
def fail() -> None:
    """Raise."""
    raise ValueError("there is no digit 11")


@delegated
def die() -> None:
    """End as the kernel ends what needs too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


@delegated
def meet(mine: str, theirs: str) -> bool:
    """Leave a file and wait for another one, which only a process beside this one can leave."""
    Path(mine).touch()
    deadline = time.monotonic() + 30
    while not Path(theirs).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return Path(theirs).exists()


@delegated
def linger(path: str) -> None:
    """Write this process's id to `path` and stay."""
    partial = Path(f"{path}.partial")
    partial.write_text(str(os.getpid()))
    partial.rename(path)
    time.sleep(300)
