"""Attention over channels, trained into a network that stands still, and what it says on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.graph.units import Block, ChannelGroup
from compress.prune.gating.excitation import Excitations
from compress.prune.gating.placement import Site, find_sites, gated
from compress.prune.gating.training import GateTraining, standing_still
from compress.train.scoring import device_of

#: Learning rate of the attention.
LR = 0.02
#: What the mean gate of every group is pulled to, and how hard.
TARGET, PULL = 0.5, 10.0


@dataclass(frozen=True)
class Attention:
    """What the gates of one group say.

    Attributes:
        mean_NC: Mean gate over the inputs of each of N batches.
        spread_C: Standard deviation of the gate over all inputs: 0 for a gate that does not look at its input.
    """

    mean_NC: Tensor
    spread_C: Tensor


def attention_of(
    module: nn.Module, groups: tuple[ChannelGroup, ...], training: GateTraining, *, blocks: Sequence[Block] = ()
) -> dict[str, Attention]:
    """Return what the gates say after training, by name of the group or path of the block.

    min over the attention of L(x · s(x)) + pull · mean over groups of (mean of s - target)², where all blocks count as
    one group. The pull alone cannot tell channels of one group apart: which of them keep an open gate the loss decides.

    Args:
        module: The network; comes back as it was.
        groups: Its groups.
        training: How long and on what; what the gates say is taken from one more round.
        blocks: Blocks that get a gate too.
    """
    device = device_of(module)
    sites = find_sites(module, groups, blocks, training.task.input.example(3).to(device))
    gates = Excitations(sites, device, training.seed)

    def loss_of(step: int, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        gates.forget()
        loss = training.task.loss(run(x_BCHW), y_B)
        return loss + PULL * torch.stack([(mean - TARGET) ** 2 for mean in _mean_gates(sites, gates)]).mean()

    if not sites:
        return {}
    seen: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    with gated(module, sites, gates) as run:
        training.minimise(module, list(gates.parameters()), loss_of, lr=LR, what="train attention")
        with standing_still(module), torch.no_grad():
            for x_BCHW, _ in training.batches("last"):
                gates.forget()
                run(x_BCHW.to(device))
                for name, own in seen.items():
                    own.append(gates.decided[name])
    return {name: _summed_up(own) for name, own in seen.items()}


def _mean_gates(sites: Sequence[Site], gates: Excitations) -> list[Tensor]:
    """Return the mean gate of each group, and of all blocks together."""
    of_groups = [gates.decided[site.name].mean() for site in sites if not site.is_block]
    of_blocks = [gates.decided[site.name].mean() for site in sites if site.is_block]
    return of_groups + ([torch.stack(of_blocks).mean()] if of_blocks else [])


def _summed_up(gates: Sequence[Tensor]) -> Attention:
    mean_NC = torch.stack([own_BC.mean(0) for own_BC in gates])
    return Attention(mean_NC, torch.cat(list(gates)).std(0, correction=0))
