"""Running sums over what layers read. Each observer sees one batch at a time and keeps none of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.core.random import generator
from compress.graph.parts import Activity, Moments, Part
from compress.graph.places import Place

#: Places of one input that moments look at; of more, so many are chosen by chance, once for all inputs.
MOST_PLACES = 1024
#: Inputs whose maps are decomposed for the effective rank.
MOST_MAPS = 32


@dataclass(frozen=True)
class View:
    """What one layer gets, or gives, for one batch.

    Attributes:
        own_BCP: The group's channels at every place.
        whole_BSP: All channels of the layer.
        size: Extent in space, () for vectors.
        labels_B: Classes of the inputs.
    """

    own_BCP: Tensor
    whole_BSP: Tensor
    size: tuple[int, ...]
    labels_B: Tensor


class Observer:
    """Base of all: what is seen by a place of a group, and the statistic of it."""

    def __init__(self, place: Place, num_classes: int) -> None:
        self.place, self.num_classes = place, num_classes
        self.count = 0
        self.sum_C = torch.zeros(len(place.member.index))

    def see(self, view: View) -> None:
        """Add one batch."""
        raise NotImplementedError

    def results(self) -> Sequence[Moments | Activity | Part]:
        """Return the statistic; asked only when something was counted."""
        raise NotImplementedError


class MomentSum(Observer):
    """Mean and covariance, by Chan's formula for joining the moments of two samples.

    In a grouped convolution the positions of a channel, one in each of Q groups, are counted apart, because there they
    are read apart; else Q is 1.
    """

    def see(self, view: View) -> None:
        """Add the values of every channel at every place, or at a fixed choice of them."""
        own_BCP = view.own_BCP.unflatten(2, (self.place.num_kernel_groups, -1))
        num_places = own_BCP.shape[3]
        if num_places > MOST_PLACES:
            chosen = torch.randperm(num_places, generator=generator(0, "places", num_places))[:MOST_PLACES]
            own_BCP = own_BCP[..., chosen.sort().values.to(own_BCP.device)]
        own_QCN = own_BCP.permute(2, 1, 0, 3).flatten(2)
        number = own_QCN.shape[2]
        mean_QC = own_QCN.mean(2, dtype=torch.float64)
        centred_QCN = own_QCN - mean_QC.to(own_QCN.dtype).unsqueeze(2)
        scatter_QCC = (centred_QCN @ centred_QCN.mT).double()
        if not self.count:
            self._mean_QC, self._scatter_QCC = torch.zeros_like(mean_QC), torch.zeros_like(scatter_QCC)
        total, step_QC = self.count + number, mean_QC - self._mean_QC
        between_QCC = step_QC.unsqueeze(2) * step_QC.unsqueeze(1)
        self._scatter_QCC += scatter_QCC.add_(between_QCC, alpha=self.count * number / total)
        self._mean_QC += step_QC * (number / total)
        self.count = total

    def results(self) -> list[Moments]:
        """Return the moments so far."""
        path, count = self.place.member.path, self.count
        return [Moments(path, count, *own) for own in zip(self._mean_QC, self._scatter_QCC / count, strict=True)]


class ActivitySum(Observer):
    """How often and how strongly channels fire, over all inputs and by class."""

    def see(self, view: View) -> None:
        """Add each input's part of non-zeros and mean size."""
        each_2BC = torch.stack([(view.own_BCP != 0).double().mean(2), view.own_BCP.abs().mean(2, dtype=torch.float64)])
        if not self.count:
            self._sums_2LC = each_2BC.new_zeros(2, self.num_classes, each_2BC.shape[2])
            self._inputs_L = each_2BC.new_zeros(self.num_classes)
        self._sums_2LC.index_add_(1, view.labels_B, each_2BC)
        self._inputs_L += torch.bincount(view.labels_B, minlength=self.num_classes)
        self.count += len(view.labels_B)

    def results(self) -> list[Activity]:
        """Return means over all inputs, and over those of the class for which they are largest."""
        part_C, mean_C = self._sums_2LC.sum(1) / self.count
        seen_L = self._inputs_L > 0
        firing_C, peak_C = (self._sums_2LC[:, seen_L] / self._inputs_L[seen_L, None]).amax(1)
        numbers = (value_C.float() for value_C in (1 - part_C, mean_C, firing_C, peak_C))
        return [Activity(self.place.member.path, *numbers)]


class RankSum(Observer):
    """Effective rank of the channels' maps, over the first MOST_MAPS inputs."""

    def see(self, view: View) -> None:
        """Add e^H(σ / Σσ) of each map's singular values σ; a map of zeros has rank 0."""
        number, places = min(len(view.own_BCP), MOST_MAPS - self.count), self.place.member.multiplicity
        if number <= 0 or len(view.size) < 2 or min(view.size) < 2:
            return
        if view.own_BCP.shape[2] != places * math.prod(view.size):
            return
        maps_BCMHW = view.own_BCP[:number].float().unflatten(2, (places, view.size[0], -1))
        self.sum_C = self.sum_C.to(maps_BCMHW) + effective_rank(maps_BCMHW).mean(2).sum(0)
        self.count += number

    def results(self) -> list[Part]:
        """Return the mean rank (C, 1)."""
        return [self.place.part((self.sum_C / self.count).unsqueeze(1))]


class InfluenceSum(Observer):
    """By how much what a layer reads turns when one channel is gone."""

    def see(self, view: View) -> None:
        """Add 1 - cos(x, x without c) = 1 - sqrt(1 - |x_c|² / |x|²) of each input."""
        own_BC = view.own_BCP.square().sum(2, dtype=torch.float64)
        whole_B1 = view.whole_BSP.square().sum((1, 2), dtype=torch.float64).unsqueeze(1)
        part_BC = (own_BC / whole_B1.clamp_min(torch.finfo(torch.float64).tiny)).clamp(0, 1)
        self.sum_C = self.sum_C.to(part_BC) + (1 - (1 - part_BC).sqrt()).sum(0)
        self.count += len(own_BC)

    def results(self) -> list[Part]:
        """Return the mean turn (C, 1)."""
        return [self.place.part((self.sum_C / self.count).float().unsqueeze(1))]


def effective_rank(maps: Tensor) -> Tensor:
    """Return e^H(p) of matrices (…, H, W), where p are their singular values over the sum of them.

    Of a matrix with r equal singular values and no others it is r. Zeros have 0.

    >>> effective_rank(torch.stack([torch.eye(3), torch.ones(3, 3), torch.zeros(3, 3)])).round().tolist()
    [3.0, 1.0, 0.0]
    """
    sigma = torch.linalg.svdvals(maps)
    total = sigma.sum(-1, keepdim=True)
    part = sigma / total.clamp_min(torch.finfo(sigma.dtype).tiny)
    entropy = -torch.special.xlogy(part, part).sum(-1)
    return entropy.exp() * (total.squeeze(-1) > 0)
