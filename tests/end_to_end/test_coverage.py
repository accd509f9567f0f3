"""Ten of the networks in docs/coverage.md: cut to half, saved, rebuilt in another process, exported, counted."""

import pytest

from deploy.coverage.__main__ import tried
from deploy.coverage.steps import STEPS

NETWORKS = (
    ("torchvision:googlenet", 32),
    ("torchvision:mnasnet0_5", 32),
    ("torchvision:mobilenet_v3_small", 32),
    ("torchvision:regnet_y_400mf", 32),
    ("torchvision:shufflenet_v2_x0_5", 32),
    ("torchvision:swin_t", 64),
    ("timm:convnext_atto", 32),
    ("timm:ghostnet_100", 32),
    ("timm:resnet10t", 32),
    ("timm:vit_tiny_patch16_224", 32),
)


@pytest.mark.slow
@pytest.mark.parametrize(("builder", "pixels"), NETWORKS)
def test_every_step(builder: str, pixels: int) -> None:
    pytest.importorskip(builder.partition(":")[0])
    facts = tried(builder, pixels, 900)
    assert facts["passed"] == list(STEPS), facts.get("reason")
    assert facts["part"] == 0.5
    assert 0.4 * facts["macs"] < facts["macs_promised"] <= 0.5 * facts["macs"]
    assert facts["parity"] <= 1e-4
