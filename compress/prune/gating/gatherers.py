"""What trained gates say of each group, as statistics that a criterion can ask for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compress.core.task import Task
from compress.graph.parts import Part
from compress.graph.stats import GATHERERS, Settings
from compress.graph.units import BLOCKS, ChannelGroup
from compress.prune.gating.attended import attention_of
from compress.prune.gating.budgeted import learned_log_odds
from compress.prune.gating.training import GateTraining

#: How often the batches of a statistic are gone through, by need.
ROUNDS = {"attention": 5, "hard_concrete": 10}


def gather_attention(
    module: nn.Module, groups: tuple[ChannelGroup, ...], task: Task, settings: Settings
) -> dict[str, tuple[Part, ...]]:
    """Return the log-odds (C, N) of the mean gate over the inputs of each of N batches."""
    found = attention_of(module, groups, _training(task, settings, "attention"), blocks=settings.blocks)
    log_odds = {name: torch.logit(own.mean_NC.T, 1e-6) for name, own in found.items()}
    return _parts(groups, settings, log_odds)


def gather_hard_concrete(
    module: nn.Module, groups: tuple[ChannelGroup, ...], task: Task, settings: Settings
) -> dict[str, tuple[Part, ...]]:
    """Return the log-odds (C, 1) of an open gate, learned within the limits."""
    training = _training(task, settings, "hard_concrete")
    found = learned_log_odds(module, groups, training, blocks=settings.blocks, limits=settings.limits)
    return _parts(groups, settings, {name: own_C.unsqueeze(1) for name, own_C in found.items()})


GATHERERS.update(attention=gather_attention, hard_concrete=gather_hard_concrete)


def _training(task: Task, settings: Settings, need: str) -> GateTraining:
    return GateTraining(
        task,
        num_batches=settings.num_batches,
        batch_size=settings.batch_size,
        seed=settings.seed,
        rounds=ROUNDS[need],
    )


def _parts(
    groups: tuple[ChannelGroup, ...], settings: Settings, log_odds: Mapping[str, Tensor]
) -> dict[str, tuple[Part, ...]]:
    """Return one part for each group with gates, none for the others, and one for all blocks together."""
    parts: dict[str, tuple[Part, ...]] = {
        g.name: (Part(g.name, "in", False, log_odds[g.name]),) if g.name in log_odds else () for g in groups
    }
    rows = [log_odds[block.name] for block in settings.blocks if block.name in log_odds]
    if settings.blocks:
        assert len(rows) == len(settings.blocks), "a block that may be left out is never called"
        parts[BLOCKS] = (Part(BLOCKS, "in", False, torch.cat(rows)),)
    return parts
