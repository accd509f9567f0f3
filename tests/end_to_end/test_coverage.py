"""Ten of the networks in docs/coverage.md: cut to half, saved, rebuilt in another process, exported, counted."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.coverage import steps
from deploy.coverage.__main__ import tried

NETWORKS = (
    ("torchvision:googlenet", 32),
    ("torchvision:mnasnet0_5", 32),
    ("torchvision:mobilenet_v3_small", 32),
    ("torchvision:regnet_y_400mf", 32),
    ("torchvision:shufflenet_v2_x0_5", 32),
    ("torchvision:swin_t", 64),
    ("timm:convnext_atto", 32),
    ("timm:ghostnet_100", 32),
    ("timm:vit_tiny_patch16_224", 32),
)


@pytest.mark.slow
def test_the_command_tries_one_in_processes_of_their_own() -> None:
    pytest.importorskip("timm")
    check(tried("timm:resnet10t", 32, 900))


@pytest.mark.slow
@pytest.mark.parametrize(("builder", "pixels"), NETWORKS)
def test_every_step(builder: str, pixels: int, tmp_path: Path) -> None:
    """Cut here, where everything is imported, and replayed in another process."""
    pytest.importorskip(builder.partition(":")[0])
    assert steps.main(["cut", str(tmp_path), builder, str(pixels)]) == 0, (tmp_path / steps.FACTS).read_text()
    command = [sys.executable, "-m", "deploy.coverage.steps", "check", str(tmp_path)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    check(json.loads((tmp_path / steps.FACTS).read_text()))


def check(facts: Mapping[str, Any]) -> None:
    assert facts["passed"] == list(steps.STEPS), facts.get("reason")
    assert facts["part"] == 0.5
    assert 0.4 * facts["macs"] < facts["macs_promised"] <= 0.5 * facts["macs"]
    assert facts["parity"] <= 1e-4
