"""One side of the scoring comparison, in a process of its own: `python -m studies.scoring_side ours|theirs all|shared`.

Prints JSON: seconds of processor time by part, the first time and again, and the memory that was needed on top.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch_pruning
import torchvision
from torch import Tensor, nn

from compress.graph.groups import trace_groups
from compress.graph.stats import gather
from compress.graph.verification import verified
from compress.prune.criteria import CRITERIA
from studies.torch_pruning_side import IMPORTANCES

#: Criteria that need no data, by side. Both sides have those of "shared".
OURS = {
    "all": (
        "magnitude",
        "batch_norm_scale",
        "geometric_median",
        "kernel_distance",
        "kernel_angle",
        "kernel_sparsity",
        "random",
    ),
    "shared": ("magnitude", "batch_norm_scale", "geometric_median"),
}
THEIRS = {"all": ("magnitude", "batch_norm_scale", "geometric_median", "lamp", "random"), "shared": OURS["shared"]}
PIXELS = 64
#: One thread, so this is what a quiet machine would show on the wall.
CLOCK = time.process_time


def network() -> tuple[nn.Module, Tensor]:
    """Return torchvision's ResNet-50 with random weights, and an input."""
    torch.manual_seed(0)
    return torchvision.models.resnet50().eval(), torch.randn(1, 3, PIXELS, PIXELS)


def ours(module: nn.Module, x_BCHW: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Return seconds for the groups, for their verification by a cut, for the statistics and for each criterion."""
    times, start = {}, CLOCK()
    groups = trace_groups(module, x_BCHW, is_verified=False)
    times["groups"] = CLOCK() - start
    start = CLOCK()
    groups = verified(module, groups, x_BCHW)
    times["verification"] = CLOCK() - start
    start = CLOCK()
    stats = gather(module, groups, sorted({need for name in names for need in CRITERIA[name].needs}))
    times["statistics"] = CLOCK() - start
    for name in names:
        start = CLOCK()
        for group in groups:
            CRITERIA.bind(name)(stats[group.name])
        times[name] = CLOCK() - start
    return times


def theirs(module: nn.Module, x_BCHW: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Return seconds for the groups and for each importance."""
    times, start = {}, CLOCK()
    graph = torch_pruning.DependencyGraph().build_dependency(module, x_BCHW)
    types = [torch.nn.Conv2d, torch.nn.Linear]
    groups = list(graph.get_all_groups(ignored_layers=[module.fc], root_module_types=types))
    times["groups"] = CLOCK() - start
    for name in names:
        importance = IMPORTANCES[name]()
        start = CLOCK()
        for group in groups:
            importance(group)
        times[name] = CLOCK() - start
    return times


def measured(side: str, which: str) -> dict[str, Any]:
    """Return the parts' seconds of the second of two runs, the total of each, and the memory on top in MiB.

    "unverified_s" is the second total without the trial cut that verifies our groups.
    """
    torch.set_num_threads(1)
    module, x_BCHW = network()
    with torch.no_grad():
        module(x_BCHW)
    run: Callable[..., dict[str, float]]
    run, names = (ours, OURS[which]) if side == "ours" else (theirs, THEIRS[which])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first = run(module, x_BCHW, names)
    again = run(module, x_BCHW, names)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "first_s": sum(first.values()),
        "again_s": sum(again.values()),
        "unverified_s": sum(again.values()) - again.get("verification", 0.0),
        "parts_s": again,
        "memory_mib": (peak - before) / 1024,
    }


if __name__ == "__main__":
    print(json.dumps(measured(*sys.argv[1:])))
