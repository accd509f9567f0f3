"""Five torchvision networks: half of the multiply-adds gone, saved, rebuilt elsewhere, exported, the same answers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.core.task import InputSpec
from compress.graph.cost_model import CostModel
from compress.graph.groups import trace_groups
from compress.graph.stats import gather
from compress.graph.surgery import apply, plan_from_kept
from compress.measure import cost_of
from compress.models import borrowed  # noqa: F401
from compress.prune.allocators import ALLOCATORS
from compress.prune.criteria import CRITERIA
from compress.prune.normalizers import NORMALIZERS
from deploy.export.onnx_from_model import onnx_from_model

NETWORKS = ("resnet18", "mobilenet_v2", "vgg11_bn", "densenet121", "efficientnet_b0")
SPEC = InputSpec(
    shape=(3, 64, 64), mean=(0.5,) * 3, std=(0.25,) * 3, class_names=tuple(f"class {k}" for k in range(10))
)
REBUILD = """
import sys
from pathlib import Path
import numpy as np
from compress import catalogue
from compress.core.model import Model
folder = Path(sys.argv[1])
catalogue.load()
model = Model.load(folder)
np.save(folder / "logits.npy", model(model.input.example(3)).numpy())
assert "torch_pruning" not in sys.modules, "replaying a plan must not trace"
"""


def halved(name: str) -> tuple[Model, Model]:
    """Return a network and what is left of it at half of its multiply-adds."""
    model = Model.build(BUILDERS.bind(f"torchvision:{name}"), SPEC, seed=0)
    groups = trace_groups(model.module, SPEC.example())
    stats = gather(model.module, groups, ("weight",))
    scores = {group: NORMALIZERS.bind("mean")(CRITERIA.bind("magnitude")(stats[group])) for group in stats}
    counts = CostModel(model.module, groups, SPEC.example(1))
    kept = ALLOCATORS.bind("global")(scores, counts.macs, 0.5 * counts.macs({}), lambda masks: 0.0)
    return model, apply(model, plan_from_kept(groups, kept), stage="prune", config={})


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_half_saved_rebuilt_exported(name: str, tmp_path: Path) -> None:
    model, half = halved(name)
    before, after = cost_of(model), cost_of(half)
    assert before.macs is not None
    assert after.macs is not None
    assert 0.45 * before.macs < after.macs <= 0.5 * before.macs
    half.save(tmp_path)
    subprocess.run([sys.executable, "-c", REBUILD, str(tmp_path)], check=True)
    with torch.no_grad():
        expected = half(SPEC.example(3)).numpy()
    assert np.array_equal(np.load(tmp_path / "logits.npy"), expected)
    assert onnx_from_model(half, tmp_path / "model.onnx").parity_max_abs <= 1e-4
