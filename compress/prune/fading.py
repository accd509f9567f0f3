"""Conversions faded in during a training: the old layer is let go of step by step while the network adapts.

    fading = fade(model, {"layer1.0.conv1": converted})
    … train fading.module, calling advance(fading.module, progress) in every step …
    model = settled(fading, stage="prune", config={})

At α = 0 the network is the old one, at α = 1 the new one, whatever the conversion.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from compress.blocks.fading import Fading, FadingGroups, FadingPair
from compress.core.model import Model
from compress.graph.conversion import cheaper, convert_with, fill_grouped, group_mask, replace_at
from compress.prune.conversions.family import Converted
from compress.prune.conversions.sites import dense_of


def fade(model: Model, choices: Mapping[str, Converted]) -> Model:
    """Return a model whose layers in `choices` fade to what they become; α is 0.

    Its lineage is still that of `model`: it is for training and cannot be stored before it is `settled`.

    Args:
        model: Not changed.
        choices: By path of a convolution; those that change nothing are passed over.
    """
    module = copy.deepcopy(model.module)
    for path, choice in choices.items():
        if choice.is_change:
            old = module.get_submodule(path)
            assert isinstance(old, nn.Conv2d)
            replace_at(module, path, _fading(old, choice).train(old.training))
    return Model(module, model.input, model.lineage)


def set_alpha(module: nn.Module, alpha: float) -> None:
    """Set α of every fading layer in `module`: 0 is the old layer, 1 the new one."""
    assert 0 <= alpha <= 1, alpha
    for layer in module.modules():
        if isinstance(layer, Fading):
            layer.alpha.fill_(alpha)


def advance(module: nn.Module, progress: float, *, until: float = 0.75) -> None:
    """Set α for a training that has come `progress` in [0, 1] far: α = min(1, progress / until).

    Args:
        module: The network in training.
        progress: Part of the steps that are done.
        until: Part of the training after which the fade is over; the rest trains the new layers alone.
    """
    if not 0 < until <= 1:
        raise ValueError(f"until={until!r}: the part of the training in which layers fade lies in (0, 1].")
    set_alpha(module, min(1.0, max(0.0, progress) / until))


def settled(model: Model, *, stage: str, config: Mapping[str, Any]) -> Model:
    """Return the model with every fading layer replaced by what it becomes, as trained.

    Its outputs are those of the fading model at α = 1. The conversion is recorded as a step of `stage`.
    """
    base, layers = copy.deepcopy(model.module), {}
    for path, layer in model.module.named_modules():
        if isinstance(layer, FadingGroups):
            new = cheaper(layer.dense, layer.target)
            fill_grouped(new, layer.dense, layer.target)
            layers[path] = (layer.target, new)
            replace_at(base, path, layer.dense)
        elif isinstance(layer, FadingPair):
            layers[path] = (layer.target, layer.new)
            replace_at(base, path, layer.old)
    return convert_with(Model(base, model.input, model.lineage), layers, stage=stage, config=config)


def _fading(old: nn.Conv2d, choice: Converted) -> nn.Module:
    if choice.target["to"] == "grouped":
        dense = dense_of(old)
        return FadingGroups(dense, group_mask(dense, choice.target), choice.target)
    return FadingPair(old, copy.deepcopy(choice.layer), choice.target)
