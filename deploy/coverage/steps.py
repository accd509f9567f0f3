"""The steps that a network has to pass, in two processes: what the second one knows is what the first one saved.

python -m deploy.coverage.steps cut FOLDER torchvision:resnet18 32
python -m deploy.coverage.steps check FOLDER
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.core.budget import Infeasible
from compress.core.layout import write_json
from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.core.task import InputSpec
from compress.graph.cost_model import CostModel
from compress.graph.groups import NotVerified, trace_groups
from compress.graph.stats import gather
from compress.graph.surgery import apply, plan_from_kept
from compress.graph.units import ChannelGroup
from compress.graph.verification import unlike
from compress.measure.measures import MEASURES
from compress.prune.allocators import ALLOCATORS
from compress.prune.criteria import CRITERIA
from compress.prune.normalizers import NORMALIZERS

#: In the order in which they are passed.
STEPS = ("build", "trace", "prune", "backward", "save", "rebuild", "export", "count")
#: Parts of the multiply-adds that are tried, the smallest that can be reached is taken.
PARTS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
NUM_CLASSES = 10
#: Largest difference between torch and ONNX Runtime, relative to the largest output.
PARITY = 1e-4
#: Inputs whose statistics batch norms get.
AWAKE = 8
#: Smallest difference between the outputs for different inputs, relative to the largest output.
VARIES = 1e-5
FACTS, LOGITS, MODEL = "facts.json", "logits.npy", "model"


class Failed(RuntimeError):
    """A step that ends without an error but with a wrong result."""


class Facts:
    """What is known so far; written after each step, so that a kill leaves the step in which it came."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FACTS
        self.known: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {"passed": []}

    def passed(self, step: str, **found: Any) -> None:
        """Note a step that was passed and what was found."""
        self.known |= found
        self.known["passed"].append(step)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        self.known["peak_mb"] = max(peak, self.known.get("peak_mb", 0))
        write_json(self.path, self.known)


def cut(folder: Path, builder: str, pixels: int) -> None:
    """Build, look whether outputs differ, trace, prune, differentiate and save.

    Args:
        folder: Where the facts, the model and its outputs go.
        builder: Name of a builder, "torchvision:resnet18".
        pixels: Side of an input.
    """
    facts = Facts(folder)
    labels = tuple(f"class {k}" for k in range(NUM_CLASSES))
    spec = InputSpec(shape=(3, pixels, pixels), mean=(0.5,) * 3, std=(0.25,) * 3, class_names=labels)
    model = Model.build(BUILDERS.bind(builder), spec, seed=0)
    model = Model(_awake(unlike(model.module), spec.example(AWAKE)), spec, model.lineage)
    x_BCHW = spec.example(1)
    costs = {name: MEASURES.bind(name)(model.module, x_BCHW) for name in ("macs", "params")}
    _check_outputs(model)
    facts.passed("build", **costs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        groups = trace_groups(model.module, x_BCHW)
    notes = sorted({str(warning.message) for warning in caught if "never cut" in str(warning.message)})
    if unseen := [str(warning.message) for warning in caught if issubclass(warning.category, NotVerified)]:
        raise Failed(unseen[0])
    if not groups:
        raise Failed(notes[0] if notes else "no channels can be cut")
    facts.passed("trace", groups=len(groups), whole=len(notes), notes=notes[:3])
    counts = CostModel(model.module, groups, x_BCHW)
    part, kept = half(model, groups, counts)
    model = apply(model, plan_from_kept(groups, kept), stage="prune", config={})
    promised = {f"{name}_promised": counts.quantity(name)(kept) for name in costs}
    facts.passed("prune", part=part, **promised)
    _differentiate(model)
    facts.passed("backward")
    model.save(folder / MODEL)
    np.save(folder / LOGITS, model(spec.example(3)).numpy())
    facts.passed("save")


def half(model: Model, groups: tuple[ChannelGroup, ...], counts: CostModel) -> tuple[float, dict[str, Any]]:
    """Return the smallest of PARTS that can be reached, and the masks that reach it by magnitude."""
    stats = gather(model.module, groups, ("weight",))
    scores = {name: NORMALIZERS.bind("mean")(CRITERIA.bind("magnitude")(own)) for name, own in stats.items()}
    for part in PARTS:
        try:
            return part, ALLOCATORS.bind("global")(scores, counts.macs, part * counts.macs({}), None)
        except Infeasible as error:
            smallest = error.smallest
    raise Failed(f"at least {smallest / counts.macs({}):.0%} of the multiply-adds stay")


def _awake(module: nn.Module, x_BCHW: Tensor) -> nn.Module:
    """Give batch norms, in place, the statistics of some inputs: with those of a fresh one a deep network is silent."""
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        module(x_BCHW)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    return module


def _check_outputs(model: Model) -> None:
    """Raise Failed if the outputs say nothing: then any cut would seem right."""
    logits_BC = model(model.input.example(3))
    if not bool(logits_BC.isfinite().all()):
        raise Failed("some output is infinite or no number")
    if not bool((logits_BC - logits_BC[:1]).abs().max() > VARIES * logits_BC.abs().max()):
        raise Failed("the outputs are the same for all inputs: no cut would show")


def _differentiate(model: Model) -> None:
    """Run forwards and backwards once."""
    module = model.module.eval().requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(module(model.input.example(2)), torch.tensor([0, 1]))
    loss.backward()
    slopes = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    if not slopes or not all(bool(slope.isfinite().all()) for slope in slopes.values()):
        raise Failed("some slope of the loss is infinite or no number")
    still = [name for name, slope in slopes.items() if slope.ndim > 1 and not bool(slope.any())]
    if still:
        raise Failed(f"the loss does not depend on {still[0]} and {len(still) - 1} more weights")
    module.zero_grad(set_to_none=True)


def check(folder: Path) -> None:
    """Rebuild from the record, compare, export, compare, count.

    Args:
        folder: What `cut` wrote.
    """
    from deploy.export.onnx_from_model import onnx_from_model

    facts = Facts(folder)
    model = Model.load(folder / MODEL)
    expected = np.load(folder / LOGITS)
    largest = float(np.abs(expected).max())
    gap = float(np.abs(model(model.input.example(3)).numpy() - expected).max())
    if not gap <= 1e-6 * largest:
        raise Failed(f"the rebuilt network differs by {gap:.2g}, outputs are up to {largest:.2g}")
    facts.passed("rebuild")
    export = onnx_from_model(model, folder / "model.onnx", parity_max=PARITY * largest)
    facts.passed("export", parity=export.parity_max_abs / largest)
    for name in ("macs", "params"):
        found, promised = MEASURES.bind(name)(model.module, model.input.example(1)), facts.known[f"{name}_promised"]
        if found != promised:
            raise Failed(f"{name}: counted {found:,.0f}, the cost model promised {promised:,.0f}")
    facts.passed("count")


def main(args: list[str]) -> int:
    """Run "cut" or "check"; the reason of a failure goes into the facts."""
    from compress import catalogue

    catalogue.load()
    torch.set_num_threads(1)
    folder = Path(args[1])
    part: Callable[[], None] = (
        (lambda: cut(folder, args[2], int(args[3]))) if args[0] == "cut" else lambda: check(folder)
    )
    try:
        part()
    except Exception as error:
        facts = Facts(folder)
        lines = [line[:200] for line in str(error).splitlines()] or [""]
        facts.known["reason"] = lines[0] if isinstance(error, Failed) else f"{type(error).__name__}: {lines[0]}"
        write_json(facts.path, facts.known)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
