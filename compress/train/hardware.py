"""Where training runs: Accelerate's choice of device and precision, kept repeatable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from compress.core.random import derived_seed, seeded
from compress.train.processes import is_on_gpus, join

#: Names of this project for Accelerate's.
PRECISIONS = {"float32": "no", "bfloat16": "bf16"}


def accelerator_for(precision: str) -> Any:
    """Return an Accelerator on the fastest device present; ACCELERATE_USE_CPU=true keeps to the CPU.

    A batch is that of all processes together, and the schedule moves on once a batch.

    Args:
        precision: A key of `PRECISIONS`.
    """
    from accelerate import Accelerator, DataLoaderConfiguration
    from accelerate.state import AcceleratorState

    processes = join()
    known = AcceleratorState._shared_state
    if known and known["_mixed_precision"] != PRECISIONS[precision]:
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=PRECISIONS[precision],
        cpu=processes.count > 1 and not is_on_gpus(),
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    if accelerator.num_processes != processes.count:
        raise ValueError(
            f"the launcher started {processes.count} processes, Accelerate sees {accelerator.num_processes}: start "
            f"them with torchrun or accelerate launch, which set WORLD_SIZE, RANK and LOCAL_RANK."
        )
    return accelerator


@contextmanager
def repeatable(seed: int, epoch: int, device: torch.device, rank: int = 0) -> Iterator[None]:
    """Context in which dropout and its like draw from (seed, epoch, rank), and convolutions repeat bit for bit."""
    is_cuda = device.type == "cuda"
    place = ("epoch", epoch, "noise", *((rank,) if rank else ()))
    with (
        seeded(seed, *place),
        torch.random.fork_rng(devices=[device] if is_cuda else [], enabled=is_cuda),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        if is_cuda:
            torch.cuda.manual_seed(derived_seed(seed, *place))
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
