"""Several processes train one network: which part of a batch is whose, and what they tell each other.

A launcher (torchrun, accelerate launch, a TrainJob) starts the processes and sets WORLD_SIZE, RANK and LOCAL_RANK.
Every process draws the whole batch from the same generator and keeps its share, so that the shares of a step are
the batch of a single process. Gradients are averaged, batch norm sees the whole batch, and nothing is pickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

#: How long a process waits for the first one's answer: that one may wait for another run that makes the same entry.
PATIENCE = timedelta(days=1)
#: How long a step of training waits for the others; one that hangs must not keep all machines.
PEERS = timedelta(minutes=30)


@dataclass(frozen=True)
class Processes:
    """The processes of one run, seen from one of them.

    Attributes:
        rank: Place of this process; 0 writes entries, checkpoints and progress.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, values_B: Tensor) -> Tensor:
        """Return this process's part of a batch, whose size is a multiple of `count`."""
        return values_B if self.count == 1 else values_B.chunk(self.count)[self.rank]

    def check_batch(self, size: int) -> None:
        """Raise ValueError when a batch of `size` cannot be shared evenly."""
        if size % self.count:
            raise ValueError(
                f"a batch of {size} inputs cannot be shared by {self.count} processes: choose a batch_size that is "
                f"a multiple of {self.count} (it counts the inputs of all processes together)."
            )

    def average(self, parameters: Iterable[nn.Parameter], value: Tensor) -> Tensor:
        """Average all gradients over the processes, in one exchange.

        Args:
            parameters: A gradient that no process has stays None; one that some have counts as 0 in the others.
            value: Scalar to average along.

        Returns:
            The average of `value`.
        """
        if self.count == 1:
            return value
        owners = [parameter for parameter in parameters if parameter.requires_grad]
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in owners]
        has_gradient = value.new_tensor([float(one.grad is not None) for one in owners])
        buffer = torch.cat([one.flatten().float() for one in (value, has_gradient, *gradients)])
        dist.all_reduce(buffer)
        parts = buffer.split([1, len(owners), *(one.numel() for one in owners)])
        for parameter, is_wanted, total in zip(owners, parts[1].tolist(), parts[2:], strict=True):
            if is_wanted:
                parameter.grad = (total / self.count).view_as(parameter).to(parameter.dtype)
        return (parts[0] / self.count).squeeze(0).to(value.dtype)

    def first_says(self, find_out: Callable[[], float]) -> float:
        """Return a number that the first process finds out."""
        if self.count == 1:
            return find_out()
        number = torch.tensor([find_out() if self.is_first else 0.0], dtype=torch.float64)
        dist.broadcast(number, 0, group=_waiting())
        return float(number)

    def bytes_of_first(self, data: bytes) -> bytes:
        """Return what the first process gave."""
        if self.count == 1:
            return data
        length = int(self.first_says(lambda: len(data)))
        if not length:
            return b""
        if self.is_first:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        else:
            buffer = torch.empty(length, dtype=torch.uint8)
        dist.broadcast(buffer, 0, group=_waiting())
        return buffer.numpy().tobytes()

    def gathered(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return what every process gave, in order of their ranks; names and shapes are the same everywhere."""
        if self.count == 1:
            return [dict(tensors)]
        found: list[dict[str, Tensor]] = [{} for _ in range(self.count)]
        for name, value in tensors.items():
            for mine, theirs in zip(found, _gather(value.to(_device())), strict=True):
                mine[name] = theirs.to(value.device)
        return found

    def whole_batch_norm(self) -> AbstractContextManager[Any]:
        """Context in which batch norm in training mode takes mean and variance over all shares of a batch."""
        return nullcontext() if self.count == 1 else _WholeBatchNorm()


def join() -> Processes:
    """Return the processes that a launcher started, after connecting them once; without one, this process alone.

    They talk over NCCL where there are GPUs, over Gloo otherwise, or when ACCELERATE_USE_CPU=true.
    """
    if not dist.is_available() or int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes()
    if not dist.is_initialized():
        if is_on_gpus():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if is_on_gpus() else "gloo", timeout=PEERS)
        _waiting()
    return Processes(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Disconnect this process from the others."""
    if dist.is_available() and dist.is_initialized():
        _waiting.cache_clear()
        dist.destroy_process_group()


def is_on_gpus() -> bool:
    """Whether training uses GPUs."""
    keeps_to_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t")
    return torch.cuda.is_available() and not keeps_to_cpu


@cache
def _waiting() -> Any:
    """Return the group, made once, over which processes wait for what the first one says."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def _device() -> torch.device:
    """Return where tensors must lie to be sent."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _gather(value: Tensor) -> list[Tensor]:
    found = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(found, value.contiguous())
    return found


class _Gathered(torch.autograd.Function):
    """(values) -> (process, values); the gradient is the sum over what every process made of them."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return torch.stack(_gather(value))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]


class _WholeBatchNorm(TorchFunctionMode):
    """Replaces `functional.batch_norm`, whichever module calls it; torch's SyncBatchNorm knows no CPU."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if function is functional.batch_norm:
            return _batch_norm(*args, **options)
        return function(*args, **options)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`functional.batch_norm`, argument by argument, with the statistics of the whole batch in training mode."""
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = [axis for axis in range(input.dim()) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(input.dim())]
    mean_C, var_C, count = _statistics(input.float(), axes)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
            running_var.lerp_((var_C * (count / max(1, count - 1))).to(running_var.dtype), momentum)
    scale_C = torch.rsqrt(var_C + eps)
    if weight is not None:
        scale_C = scale_C * weight
    normed = (input.float() - mean_C.view(shape)) * scale_C.view(shape)
    return (normed if bias is None else normed + bias.view(shape)).to(input.dtype)


def _statistics(x_BCK: Tensor, axes: list[int]) -> tuple[Tensor, Tensor, int]:
    """Return mean and variance by channel, and of how many values, over the equal shares of all processes.

    The variance of the whole is the mean of the shares' variances plus the variance of their means.
    """
    own_2C = torch.stack([x_BCK.mean(axes), x_BCK.var(axes, correction=0)])
    means_PC, vars_PC = _Gathered.apply(own_2C).unbind(1)
    mean_C = means_PC.mean(0)
    var_C = vars_PC.mean(0) + (means_PC - mean_C).square().mean(0)
    return mean_C, var_C, x_BCK.numel() // x_BCK.shape[1] * len(means_PC)
