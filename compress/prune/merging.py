"""Twins made one channel: what reads the removed one reads the kept one in its place, times the factor."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.core.model import Model
from compress.graph.surgery import apply, cut, plan_from_kept
from compress.graph.units import ChannelGroup
from compress.measure.measures import evaluating
from compress.prune.conversions.family import Merged, NotConvertible

#: Largest difference, relative to the outputs, that counts as rounding.
ROUNDING = 1e-4


def merge(
    model: Model,
    group: ChannelGroup,
    found: Merged,
    norms: Mapping[str, str],
    *,
    stage: str,
    config: Mapping[str, Any],
) -> Model:
    """Return the model with every twin merged into the channel that speaks for it; recorded as a cut.

    Args:
        model: Not changed.
        group: The group whose channels they are; all its readers have weights.
        found: Which channel goes to which.
        norms: Path of the batch norm that alone follows a layer, as `norm_after` has it.
        stage: Who decided.
        config: Its configuration.

    Raises:
        NotConvertible: Something between the channels and their readers does not let a factor through. This is
            tried out: with the twins made exact the outputs must stay the same.
    """
    kept_C = torch.ones(group.num_channels, dtype=torch.bool)
    kept_C[[j for j, _, _ in found.twins]] = False
    plan = plan_from_kept((group,), {group.name: kept_C})
    x_BCHW = model.input.example()
    exact = _with_exact_twins(model.module, group, found, norms)
    with evaluating(exact), torch.no_grad():
        expected = exact(x_BCHW)
        given = cut(_added_up(exact, group, found.twins), plan)(x_BCHW)
    if not bool((given - expected).abs().max() <= ROUNDING * expected.abs().max().clamp_min(1.0)):
        raise NotConvertible("a factor on its channels is not let through to those who read them")
    whole = Model(_added_up(model.module, group, found.twins), model.input, model.lineage)
    return apply(whole, plan, stage=stage, config=config)


def _added_up(module: nn.Module, group: ChannelGroup, twins: Sequence[tuple[int, int, float]]) -> nn.Module:
    """Return a copy in which every reader has added the weights of the removed channels to those of the kept."""
    new = copy.deepcopy(module)
    for member in group.members:
        layer = new.get_submodule(member.path)
        if member.axis == "in":
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            with torch.no_grad():
                for j, i, factor in twins:
                    here, there = (list(member.index[c]) for c in (i, j))
                    layer.weight[:, here] += factor * layer.weight[:, there]
    return new


def _with_exact_twins(module: nn.Module, group: ChannelGroup, found: Merged, norms: Mapping[str, str]) -> nn.Module:
    """Return a copy in which each removed channel is made exactly as `factor` times the kept one."""
    new = copy.deepcopy(module)
    for member in group.members:
        layer = new.get_submodule(member.path)
        if member.axis == "in" or not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        norm = new.get_submodule(norms[member.path]) if member.path in norms else None
        for j, i, factor in found.twins:
            here, there = member.index[j][0], member.index[i][0]
            _copy_rows(layer, ("weight", "bias"), here, there, 1.0 if norm else factor)
            if norm is not None:
                assert isinstance(norm, _BatchNorm)
                _copy_rows(norm, ("running_mean", "running_var"), here, there, 1.0)
                _copy_rows(norm, ("weight", "bias"), here, there, factor)
    return new


def _copy_rows(layer: nn.Module, names: Sequence[str], here: int, there: int, factor: float) -> None:
    for name in names:
        if getattr(layer, name) is not None:
            with torch.no_grad():
                getattr(layer, name)[here] = factor * getattr(layer, name)[there]
