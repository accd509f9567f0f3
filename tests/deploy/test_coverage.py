"""The command that tries many networks: what it writes, what it does not do twice, how a failure is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from compress.core.registry import UnknownName
from deploy.coverage import __main__ as command
from deploy.coverage import steps
from deploy.coverage.networks import TIMM, TORCHVISION_PIXELS, networks
from deploy.coverage.table import is_passed, table

GOOD = {
    "builder": "torchvision:resnet18",
    "pixels": 32,
    "passed": list(steps.STEPS),
    "macs": 1000.0,
    "params": 2e6,
    "macs_promised": 500.0,
    "params_promised": 1.5e6,
    "groups": 12,
    "part": 0.5,
    "parity": 3e-7,
    "seconds": 1,
}
BAD = {"builder": "timm:odd", "pixels": 64, "passed": ["build"], "reason": "no | channels", "seconds": 2}


def test_the_table() -> None:
    page = table([GOOD, BAD, GOOD | {"builder": "timm:fine", "part": 0.7}], {"torch": "2.0"})
    lines = page.splitlines()
    assert "Versions: torch 2.0." in lines
    assert "| resnet18 | 32 | 2.0 | 0.0 | 12 | 0.500 | 0.750 | 3e-07 | passes |" in lines
    assert "| odd | 64 |  |  |  |  |  |  | **trace**: no \\| channels |" in lines
    assert "**1 of 2 pass every step**, 0 of them at half of the multiply-adds." in lines
    assert is_passed(GOOD)
    assert not is_passed(BAD)


def test_every_network_of_torchvision_is_tried() -> None:
    models = pytest.importorskip("torchvision.models")
    found = dict(networks("torchvision"))
    assert len(found) == len(models.list_models(module=models)) >= 80
    assert {f"torchvision:{name}" for name in TORCHVISION_PIXELS} <= set(found)
    assert found["torchvision:inception_v3"] == 75
    with pytest.raises(UnknownName, match="torchvison"):
        networks("torchvison")


def test_the_list_of_timm_names_networks_that_exist() -> None:
    timm = pytest.importorskip("timm")
    assert set(TIMM) <= set(timm.list_models())
    assert len(TIMM) > 50


def test_what_was_tried_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def tried(builder: str, pixels: int, limit_s: float) -> dict[str, Any]:
        asked.append(builder)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {**(GOOD if "18" in builder else BAD), "builder": builder, "pixels": pixels}

    monkeypatch.setattr(command, "tried", tried)
    only = [option for name in ("resnet18", "resnet34", "resnet50") for option in ("--only", name)]
    out = tmp_path / "coverage.md"
    args = ["--set", "torchvision", "--out", str(out), *only]
    with pytest.raises(KeyboardInterrupt):
        command.main(args)
    assert "1 of 2 pass" in out.read_text()
    assert command.main(args) == 0
    assert asked[3:] == ["torchvision:resnet50"]
    assert command.main([*args, "--again"]) == 0
    assert asked[4:] == ["torchvision:resnet34", "torchvision:resnet50"]
    rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["builder"] for row in rows] == [f"torchvision:resnet{k}" for k in (18, 34, 50)]


def test_a_failure_says_where_and_why(tmp_path: Path) -> None:
    assert steps.main(["cut", str(tmp_path), "torchvision:resnet19", "32"]) == 1
    facts = json.loads((tmp_path / steps.FACTS).read_text())
    assert facts["passed"] == []
    assert facts["reason"].startswith("UnknownName: unknown torchvision network 'resnet19'. Did you mean 'resnet18'")


def test_a_network_that_takes_too_long_is_given_up() -> None:
    row = command.tried("torchvision:resnet18", 32, 0.2)
    assert (row["passed"], row["reason"]) == ([], "not done after 0 s")
