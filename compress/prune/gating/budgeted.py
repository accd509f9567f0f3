"""Gates that learn which channels and blocks to keep within a budget, while the network stands still."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from compress.core.random import generator
from compress.graph.cost_model import COUNTED, CostModel
from compress.graph.units import Block, ChannelGroup
from compress.prune.gating.expected_cost import ExpectedCost
from compress.prune.gating.hard_concrete import open_log_odds, sampled
from compress.prune.gating.placement import Site, find_sites, gated
from compress.prune.gating.training import GateTraining
from compress.train.scoring import device_of

#: ln α of every gate at the start: open with probability 0.996, so that the network works.
START = 4.0
#: How far Adam can move ln α in all steps together, and at most in one.
TRAVEL, MOST_LR = 40.0, 0.5
#: The budget tightens over this part of all steps and stays for the rest.
RAMP = 0.7
#: Weight of the squared excess at the start, and what the multipliers gain in all steps together for each excess of 1.
STIFFNESS, ASCENT = 100.0, 48.0
#: Part of the multiply-adds to keep when nothing is limited.
KEPT_RATIO = 0.5


class Multipliers:
    """The augmented Lagrangian of one equality: l1 · excess + l2 · excess², with ascent on both.

    >>> multipliers = Multipliers(rate=2.0, quadratic=1.0)
    >>> multipliers.ascend(0.5)
    >>> multipliers.linear, multipliers.quadratic, float(multipliers.penalty(torch.tensor(0.5)))
    (1.0, 1.5, 0.875)
    """

    def __init__(self, *, rate: float, quadratic: float) -> None:
        self.rate, self.linear, self.quadratic = rate, 0.0, quadratic

    def penalty(self, excess: Tensor) -> Tensor:
        """Return what is added to the loss."""
        return self.linear * excess + self.quadratic * excess.square()

    def ascend(self, excess: float) -> None:
        """Take one step of gradient ascent."""
        self.linear += self.rate * excess
        self.quadratic += self.rate * excess**2


def learned_log_odds(
    module: nn.Module,
    groups: tuple[ChannelGroup, ...],
    training: GateTraining,
    *,
    blocks: Sequence[Block] = (),
    limits: Mapping[str, float] | None = None,
    kept_ratio: float = KEPT_RATIO,
) -> dict[str, Tensor]:
    """Return ln(P(open) / P(shut)) of each gate (C,), by name of the group, and (1,) by path of the block.

    min over ln α of E_z[L(z)] + l1 · excess + l2 · excess², where excess = E[cost] / limit - 1 and the limit first
    goes down from the whole cost to its place. Of several limits the one that is overspent most counts.

    Args:
        module: The network; comes back as it was.
        groups: Its groups.
        training: How long and on what.
        blocks: Blocks that get a gate too.
        limits: Upper limits of "macs" and "params"; others do not follow from probabilities and are not looked at.
        kept_ratio: Part of the multiply-adds to keep when `limits` has neither, or the network keeps them already.

    Differs from the paper: one draw for each input instead of one for each batch, which costs nothing and gives less
    noise; a budget instead of a price, met by gradient ascent on two multipliers.

    Reference: Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018, section 2.2; the
    budget as in Wang et al., "Structured Pruning of Large Language Models", EMNLP 2020, section 3.3.
    """
    device, num_steps = device_of(module), training.num_steps
    sites = find_sites(module, groups, blocks, training.task.input.example(3).to(device))
    log_alpha = {s.name: torch.full((s.num_gates,), START, device=device, requires_grad=True) for s in sites}
    x_1CHW = training.task.input.example(1).to(device)
    spent = spent_part(module, groups, x_1CHW, blocks=blocks, limits=limits or {}, kept_ratio=kept_ratio)
    whole = float(spent({}))
    multipliers = Multipliers(rate=ASCENT / num_steps, quadratic=STIFFNESS)
    gates = _Draws(sites, log_alpha, training.seed)

    def loss_of(step: int, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        gates.draw(step, len(x_BCHW))
        target = whole + min(1.0, (step + 1) / (RAMP * num_steps)) * (1 - whole)
        excess = spent({name: torch.sigmoid(open_log_odds(a)) for name, a in log_alpha.items()}) - target
        loss = training.task.loss(run(x_BCHW), y_B) + multipliers.penalty(excess)
        multipliers.ascend(float(excess.detach()))
        return loss

    if sites:
        with gated(module, sites, gates) as run:
            lr = min(MOST_LR, TRAVEL / num_steps)
            training.minimise(module, list(log_alpha.values()), loss_of, lr=lr, what="learn gates")
    return {name: open_log_odds(a.detach()) for name, a in log_alpha.items()}


def spent_part(
    module: nn.Module,
    groups: tuple[ChannelGroup, ...],
    x_1CHW: Tensor,
    *,
    blocks: Sequence[Block],
    limits: Mapping[str, float],
    kept_ratio: float,
) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return the part of the limits that probabilities spend, the largest of several; above 1 for the whole network."""
    model = CostModel(module, groups, x_1CHW)
    costs = {name: ExpectedCost(model, name, groups, blocks, x_1CHW.device) for name in COUNTED}
    bounds = {name: limits[name] for name in COUNTED if name in limits and limits[name] < float(costs[name]({}))}
    bounds = bounds or {"macs": kept_ratio * float(costs["macs"]({}))}
    return lambda present: torch.stack([costs[name](present) / limit for name, limit in bounds.items()]).max()


class _Draws:
    """The gates of one batch: the same for every reader of a channel."""

    def __init__(self, sites: Sequence[Site], log_alpha: Mapping[str, Tensor], seed: int) -> None:
        self._sites, self._log_alpha, self._seed = sites, log_alpha, seed
        self._drawn: dict[str, Tensor] = {}

    def draw(self, step: int, num_inputs: int) -> None:
        """Draw new gates for `num_inputs` inputs."""
        for site in self._sites:
            rows = 1 if site.is_shared else num_inputs
            u_BC = torch.rand(rows, site.num_gates, generator=generator(self._seed, "gates", site.name, step))
            log_alpha_C = self._log_alpha[site.name]
            self._drawn[site.name] = sampled(log_alpha_C, u_BC.to(log_alpha_C.device))

    def __call__(self, site: Site, means: Callable[[], Tensor]) -> Tensor:
        return self._drawn[site.name]
