"""Weights pulled towards an even spread, which costs little when they are quantized."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compress.train.folding import folded_weights
from compress.train.objectives.family import OBJECTIVES


def kurtosis_of(values: Tensor) -> Tensor:
    """Return E[((w - mean) / std)^4] over all elements: 1.8 for an even spread, 3 for a normal one.

    >>> float(kurtosis_of(torch.tensor([-1.0, 0.0, 0.0, 1.0])))
    2.0
    """
    centred = (values - values.mean()).flatten()
    variance = centred.square().mean()
    return centred.pow(4).mean() / variance.square().clamp_min(torch.finfo(values.dtype).tiny)


def layer_kurtosis(module: nn.Module, *, fold: bool = True) -> dict[str, Tensor]:
    """Return the kurtosis of each layer's weights by path.

    Left out are the first convolution, which sees the raw picture, and depthwise convolutions,
    whose few weights say little.

    Args:
        module: A network of convolutions and linear layers.
        fold: Whether each weight is first multiplied by the scale of the batch norm behind it.
    """
    parts = dict(module.named_modules())
    layers = [path for path, part in parts.items() if isinstance(part, nn.Conv2d | nn.Linear)]
    first = next((path for path in layers if isinstance(parts[path], nn.Conv2d)), None)
    chosen = [path for path in layers if path != first and not _is_depthwise(parts[path])]
    if not fold:
        return {path: kurtosis_of(parts[path].weight) for path in chosen}
    weights = folded_weights(module)
    return {path: kurtosis_of(weights[path]) for path in chosen}


def _is_depthwise(part: nn.Module) -> bool:
    return isinstance(part, nn.Conv2d) and part.groups > 1 and part.groups == part.in_channels


@OBJECTIVES.register("kurtosis", paper="Shkolnik 2020", idea="E5")
def kurtosis(
    module: nn.Module,
    taps: Mapping[str, Tensor],
    *,
    target: float = 1.8,
    weight: float = 1.0,
    fold: bool = True,
) -> Tensor:
    """Pull the weights of each layer towards an even spread.

    R = weight · mean over layers of (Kurt(W) - target)², Kurt(W) = E[((w - μ) / σ)⁴].

    Args:
        module: The network in training.
        taps: Not read.
        target: Kurtosis aimed at; 1.8 is the uniform distribution's.
        weight: Factor of the term beside the loss.
        fold: Whether batch norm is folded into the weights first, as export does.

    Returns:
        Scalar, at least 0; 0 for a network without such layers.

    Differs from the paper: weights are taken with batch norm folded in unless `fold` is off;
    depthwise convolutions are left out.
    Cost: one pass over the weights a step.
    Reference: Shkolnik et al., Robust Quantization: One Model to Rule Them All, NeurIPS 2020, equation 9.

    >>> layer = nn.Linear(4, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[-1.0, 0.0, 0.0, 1.0]]))
    >>> round(kurtosis(nn.Sequential(layer), {}).item(), 6)
    0.04
    """
    found = layer_kurtosis(module, fold=fold)
    if not found:
        return torch.zeros(())
    return weight * (torch.stack(list(found.values())) - target).square().mean()
