"""Torch-Pruning's own pruner on our networks, given every advantage that it can use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional

from compress.core.model import Model
from compress.core.random import generator, seeded
from compress.core.task import Task
from compress.graph.groups import trace_groups
from compress.graph.slicers import slices_itself
from compress.graph.streams import inner_groups
from compress.measure.measures import macs
from studies.protocol import fastest_device

#: Its importances by name. Those in NEED_GRADIENTS look at the loss on training images.
IMPORTANCES: dict[str, Callable[[], Any]] = {
    "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
    "taylor": torch_pruning.importance.GroupTaylorImportance,
    "hessian": torch_pruning.importance.GroupHessianImportance,
    "geometric_median": torch_pruning.importance.FPGMImportance,
    "batch_norm_scale": torch_pruning.importance.BNScaleImportance,
    "lamp": torch_pruning.importance.LAMPImportance,
    "random": torch_pruning.importance.RandomImportance,
}
NEED_GRADIENTS = ("taylor", "hessian")
#: Halvings of the interval in which the pruning ratio is searched.
NUM_HALVINGS = 12


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the pruner is used.

    Attributes:
        reach: "all" channels, or those "inside" residual blocks alone, which keeps the stream between them whole.
        steps: 1 cuts at once to a ratio that is searched; more cut a little at a time, scores renewed, until it fits.
        round_to: The pruner's own option: widths are rounded down to multiples of it; None leaves them as they come.
        is_global: One ranking of all groups; else every group loses the same part.
    """

    reach: str = "all"
    steps: int = 1
    round_to: int | None = None
    is_global: bool = True


class Decoupled(nn.Module):
    """Stands around a layer that slices itself (a padding shortcut), which the pruner cannot see through."""

    def __init__(self, real: Any) -> None:
        super().__init__()
        self.real = real
        self.is_traced = True

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return what the layer returns; while the pruner traces, as a single operation."""
        return _Single.apply(x_BCHW, self.real) if self.is_traced else self.real(x_BCHW)


class _Single(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, layer: nn.Module) -> Tensor:
        return layer(x_BCHW).clone()


class _DecoupledPruner(torch_pruning.pruner.BasePruningFunc):
    """Tells the pruner how such a layer loses channels, on either side by itself."""

    def prune_out_channels(self, layer: Decoupled, idxs: list[int]) -> nn.Module:
        layer.real = layer.real.keep_out(_rest(layer.real.out_channels, idxs))
        return layer

    def prune_in_channels(self, layer: Decoupled, idxs: list[int]) -> nn.Module:
        layer.real = layer.real.keep_in(_rest(layer.real.in_channels, idxs))
        return layer

    def get_out_channels(self, layer: Decoupled) -> int:
        return int(layer.real.out_channels)

    def get_in_channels(self, layer: Decoupled) -> int:
        return int(layer.real.in_channels)


def _rest(size: int, removed: list[int]) -> list[int]:
    return sorted(set(range(size)) - set(removed))


def cut_by_torch_pruning(
    model: Model, task: Task, importance: str, macs_ratio: float, way: Way, *, batches: int, batch_size: int, seed: int
) -> Model:
    """Return a copy of `model` that `torch_pruning.pruner.BasePruner` cut; see `Cutter`."""
    return Cutter(model, task, importance, batches=batches, batch_size=batch_size, seed=seed)(macs_ratio, way)


class Cutter:
    """(largest part of the multiply-adds that may stay, way) -> a copy of one network that Torch-Pruning cut.

    Args:
        model: Stays as it is.
        task: Training images for importances that need gradients.
        importance: Key of IMPORTANCES.
        batches: Batches for gradients.
        batch_size: Images of one of them.
        seed: Which images, and of chance.
    """

    def __init__(self, model: Model, task: Task, importance: str, *, batches: int, batch_size: int, seed: int) -> None:
        self.model, self.task, self.importance, self.seed = model, task, importance, seed
        self.sizes = {"batches": batches, "batch_size": batch_size}
        #: Those that taylor looks at, by parameter: the same for every cut.
        self.gradients: dict[str, Tensor] = {}

    def __call__(self, macs_ratio: float, way: Way) -> Model:
        """Cut.

        Raises:
            ValueError: No network is that small this way.
        """
        [cut] = self.several([macs_ratio], way)
        if cut is None:
            raise ValueError(
                f"Torch-Pruning reaches no network with {macs_ratio:.2g} of the multiply-adds this way: {way}."
            )
        return cut

    def several(self, macs_ratios: Sequence[float], way: Way) -> list[Model | None]:
        """Return what the pruner cuts for each of several parts, None for those out of reach."""
        if way.steps == 1:
            return [self._cut([ratio], way)[0] for ratio in macs_ratios]
        return self._cut(macs_ratios, way)

    def _cut(self, macs_ratios: Sequence[float], way: Way) -> list[Model | None]:
        with seeded(self.seed, "torch-pruning", self.importance):
            pruning = _Pruning(self, way)
            whole = macs(self.model.module, pruning.x_BCHW)
            limits = [ratio * whole for ratio in macs_ratios]
            modules = [pruning.at_once(limits[0])] if way.steps == 1 else pruning.in_steps(limits)
        return [None if module is None else self._unwrapped(module) for module in modules]

    def _unwrapped(self, module: nn.Module) -> Model:
        for path, layer in list(module.named_modules()):
            if isinstance(layer, Decoupled):
                _put(module, path, layer.real)
        return Model(module.eval(), self.model.input, self.model.lineage)


class _Pruning:
    """One network under one importance."""

    def __init__(self, cutter: Cutter, way: Way) -> None:
        self.cutter, self.way, self.importance = cutter, way, cutter.importance
        self.model, self.x_BCHW = cutter.model, cutter.model.input.example(1)
        self.ignored = ignored_layers(self.model, way.reach)

    def pruner(self, importance: Any, ratio: float) -> tuple[nn.Module, Any]:
        """Return a fresh copy of the network, wrapped, and a pruner for it."""
        module = copy.deepcopy(self.model.module).eval()
        for path, layer in list(module.named_modules()):
            if path and slices_itself(layer):
                _put(module, path, Decoupled(layer))
        pruner = torch_pruning.pruner.BasePruner(
            module,
            self.x_BCHW,
            importance=importance,
            global_pruning=self.way.is_global,
            pruning_ratio=ratio,
            iterative_steps=self.way.steps,
            round_to=self.way.round_to,
            ignored_layers=[module.get_submodule(path) for path in self.ignored],
            customized_pruners={Decoupled: _DecoupledPruner()},
        )
        for layer in module.modules():
            if isinstance(layer, Decoupled):
                layer.is_traced = False
        return module, pruner

    def at_once(self, limit: float) -> nn.Module | None:
        """Cut once, to the smallest ratio that fits, None without one; scores are computed on the whole network."""
        scorer = IMPORTANCES[self.importance]()
        module, pruner = self.pruner(scorer, 1.0)
        self.backward(module, scorer)
        groups = pruner.DG.get_all_groups(
            ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types
        )
        scores = {_root(module, group): scorer(group) for group in groups}
        low, high, fits = 0.0, 1.0, None
        for _ in range(NUM_HALVINGS):
            ratio = (low + high) / 2
            copied, pruner = self.pruner(None, ratio)
            pruner.importance = lambda group, own=copied: scores[_root(own, group)]
            pruner.step()
            low, high, fits = (low, ratio, copied) if macs(copied, self.x_BCHW) <= limit else (ratio, high, fits)
        return fits

    def in_steps(self, limits: Sequence[float]) -> list[nn.Module | None]:
        """Cut a little, score what is left, and so on; gradients are those of the whole network.

        Returns:
            For each limit the first network within it, None where there is none.
        """
        scorer = IMPORTANCES[self.importance]()
        module, pruner = self.pruner(scorer, 1.0)
        self.backward(module, scorer)
        found: list[nn.Module | None] = [None for _ in limits]
        for _ in range(self.way.steps):
            left = macs(module, self.x_BCHW)
            for number, limit in enumerate(limits):
                if found[number] is None and left <= limit:
                    found[number] = copy.deepcopy(module)
            if None not in found:
                break
            pruner.step()
        return found

    def backward(self, module: nn.Module, scorer: Any) -> None:
        """Leave in `module`, or in the scorer, the gradients that the importance looks at.

        The Hessian's scorer keeps them by parameter, so there the network stays where it is.
        """
        if self.importance not in NEED_GRADIENTS:
            return
        parameters = dict(module.named_parameters())
        known = self.cutter.gradients
        for name, gradient in known.items():
            parameters[name].grad = gradient.clone()
        if known:
            return
        module.zero_grad()
        place = fastest_device(module) if self.importance == "taylor" else nullcontext(module)
        with torch.enable_grad(), place:
            for x_BCHW, y_B in self.images():
                device = next(module.parameters()).device
                losses_B = functional.cross_entropy(module(x_BCHW.to(device)), y_B.to(device), reduction="none")
                if self.importance == "taylor":
                    losses_B.mean().backward()
                    continue
                for loss in losses_B:
                    module.zero_grad()
                    loss.backward(retain_graph=True)
                    scorer.accumulate_grad(module)
        if self.importance == "taylor":
            known |= {name: value.grad.clone() for name, value in parameters.items() if value.grad is not None}

    def images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of training images without augmentation."""
        sizes, draw = self.cutter.sizes, generator(self.cutter.seed, "stats")
        limit = sizes["batches"] * sizes["batch_size"]
        task = replace(self.cutter.task, augment=None)
        return task.batches("train", shuffle=draw, batch_size=sizes["batch_size"], limit=limit)


def ignored_layers(model: Model, reach: str) -> list[str]:
    """Return the paths of the layers whose channels must stay: the network's outputs, and perhaps the streams.

    A stream is a group of channels that more than one layer writes to.
    """
    if reach not in ("all", "inside"):
        raise ValueError(f"reach {reach!r}: use all or inside.")
    layers = dict(model.module.named_modules())
    makers = [path for path, layer in layers.items() if isinstance(layer, nn.Conv2d | nn.Linear)]
    cut: set[str] = set()
    groups = trace_groups(model.module, model.input.example())
    for group in groups if reach == "all" else inner_groups(model.module, groups, model.input.example(1)):
        cut.update(member.path for member in group.members if member.axis == "out" and member.path in makers)
    return [path for path in makers if path not in cut]


def _root(module: nn.Module, group: Any) -> str:
    """Return the path of the layer from which a group of channels starts."""
    layer = group[0].dep.target.module
    return next(path for path, other in module.named_modules() if other is layer)


def _put(root: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, layer)
