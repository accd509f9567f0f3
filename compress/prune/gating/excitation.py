"""Gates that look at the input: a small squeeze-and-excite network for each group and block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.core.random import seeded
from compress.prune.gating.placement import Site

#: What the last layer starts at: every gate at σ(2) = 0.88, where it lets nearly all through and still moves.
START = 2.0
#: Channels for each unit of the middle layer.
REDUCTION = 8


class Excitation(nn.Module):
    """s(x) = σ(W₂ ReLU(W₁ m)) for the means m of the channels over places, scaled to mean 0 and variance 1.

    Args:
        num_features: Number of means.
        num_gates: Number of gates.

    Differs from the paper: the means are scaled, so that one learning rate suits every layer; the last layer starts
    near a constant, so that the network works as before.

    Reference: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, equations 2 and 3.
    """

    def __init__(self, num_features: int, num_gates: int) -> None:
        super().__init__()
        middle = max(4, num_features // REDUCTION)
        self.squeeze = nn.Linear(num_features, middle)
        self.excite = nn.Linear(middle, num_gates)
        nn.init.normal_(self.excite.weight, 0.0, 0.01)
        nn.init.constant_(self.excite.bias, START)

    def forward(self, means_BC: Tensor) -> Tensor:
        """Return gates (B, num_gates) in (0, 1)."""
        scaled_BC = functional.layer_norm(means_BC, means_BC.shape[1:])
        gates_BC: Tensor = torch.sigmoid(self.excite(functional.relu(self.squeeze(scaled_BC))))
        return gates_BC


class Excitations:
    """One `Excitation` a site. Whoever reads a channel first decides its gate for all readers of that pass.

    Args:
        sites: Where gates stand.
        device: Where the network is.
        seed: For the weights.
    """

    def __init__(self, sites: Sequence[Site], device: torch.device, seed: int) -> None:
        self.networks: dict[str, Excitation] = {}
        for site in sites:
            with seeded(seed, "gates", site.name):
                self.networks[site.name] = Excitation(site.num_features, site.num_gates).to(device)
        self.decided: dict[str, Tensor] = {}

    def forget(self) -> None:
        """Begin another pass through the network."""
        self.decided.clear()

    def parameters(self) -> Iterable[Tensor]:
        """Yield what is trained."""
        for network in self.networks.values():
            yield from network.parameters()

    def __call__(self, site: Site, means: Callable[[], Tensor]) -> Tensor:
        """Return the gates of a site; only the first reader of a pass is looked at."""
        if site.name not in self.decided:
            gates_BC = self.networks[site.name](means())
            self.decided[site.name] = gates_BC.mean(0, keepdim=True) if site.is_shared else gates_BC
        return self.decided[site.name]
