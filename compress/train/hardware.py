"""Where training runs: Accelerate's choice of device and precision, kept repeatable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from compress.core.random import derived_seed, seeded

#: Names of this project for Accelerate's.
PRECISIONS = {"float32": "no", "bfloat16": "bf16"}


def accelerator_for(precision: str) -> Any:
    """Return an Accelerator on the fastest device present; ACCELERATE_USE_CPU=true keeps to the CPU.

    Args:
        precision: A key of `PRECISIONS`.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    known = AcceleratorState._shared_state
    if known and known["_mixed_precision"] != PRECISIONS[precision]:
        AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=PRECISIONS[precision])
    if accelerator.num_processes > 1:
        raise ValueError("training runs in one process: start it without a distributed launcher.")
    return accelerator


@contextmanager
def repeatable(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Context in which dropout and its like draw from (seed, epoch), and convolutions repeat bit for bit."""
    is_cuda = device.type == "cuda"
    with (
        seeded(seed, "epoch", epoch, "noise"),
        torch.random.fork_rng(devices=[device] if is_cuda else [], enabled=is_cuda),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        if is_cuda:
            torch.cuda.manual_seed(derived_seed(seed, "epoch", epoch, "noise"))
        yield


def noise_state(device: torch.device) -> dict[str, Tensor]:
    """Return where the generators behind dropout and its like stand, by device type."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_noise_state(device: torch.device, state: Mapping[str, Tensor]) -> None:
    """Put back what `noise_state` returned; an empty mapping changes nothing."""
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
