"""Runtimes: ways to run a stored model, behind one call, so that they can be timed and compared.

`deploy` registers those that need packages beyond torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.core.registry import Family
from compress.core.stage import Entry
from compress.measure.paired import PairedLatency, paired_latency


@runtime_checkable
class Session(Protocol):
    """A model that is ready to answer.

    Attributes:
        name: The runtime's piece ("torch").
        device: Where it runs ("cpu").
        num_threads: CPU threads that it may use inside one call.
        size_bytes: Size of the exported file that it runs; 0 when it runs none.
    """

    name: str
    device: str
    num_threads: int
    size_bytes: int

    def infer(self, x_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, num_classes), float32, for inputs (B, C, H, W)."""
        ...


#: (entry) -> context manager that yields a Session. What the session needs is freed on exit.
RUNTIMES: Family[Callable[..., AbstractContextManager[Session]]] = Family("runtime", data=("entry",))


def is_installed(name: str) -> bool:
    """Return whether the runtime `name` is registered and the package that it needs can be imported."""
    if name not in RUNTIMES:
        return False
    package = RUNTIMES[name].extra.get("package", "torch")
    return importlib.util.find_spec(package) is not None


class TorchSession:
    """A module in evaluation and inference mode on the CPU."""

    name = "torch"
    device = "cpu"
    size_bytes = 0

    def __init__(self, module: nn.Module, num_threads: int) -> None:
        self._module = module.eval()
        self.num_threads = num_threads

    def infer(self, x_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, num_classes), float32, for inputs (B, C, H, W)."""
        assert x_BCHW.dtype == np.float32, x_BCHW.dtype
        if torch.get_num_threads() != self.num_threads:
            torch.set_num_threads(self.num_threads)
        with torch.inference_mode():
            logits_BC: NDArray[np.float32] = self._module(torch.from_numpy(x_BCHW)).float().numpy()
        return logits_BC


@RUNTIMES.register("torch")
@contextmanager
def torch_runtime(entry: Entry, *, num_threads: int = 1) -> Iterator[Session]:
    """PyTorch on the CPU, eager, in inference mode.

    Args:
        entry: Holds a model.
        num_threads: Threads inside one call; the number set before is restored on exit.

    Yields:
        A session whose logits are those of `entry.model`, bit for bit.

    Differs from the paper: no paper.

    Cost: one forward pass a call.

    Reference: torch.inference_mode.
    """
    if num_threads < 1:
        raise ValueError(f"runtime 'torch': num_threads={num_threads}; use 1 or more.")
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield TorchSession(entry.model.module, num_threads)
    finally:
        torch.set_num_threads(before)


def paired_sessions(
    sessions: Mapping[str, Session],
    x_BCHW: NDArray[np.float32],
    *,
    rounds: int = 60,
    warmup: int = 10,
    seed: int = 0,
    pause_s: float = 0.0,
) -> PairedLatency:
    """Time sessions against each other on the same input; see `paired_latency`."""
    calls = {name: partial(session.infer, x_BCHW) for name, session in sessions.items()}
    return paired_latency(calls, rounds=rounds, warmup=warmup, seed=seed, pause_s=pause_s)
