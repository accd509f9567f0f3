"""The command that tries many networks: what it writes, what it does not do twice, how a failure is told."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from compress.core.lineage import BUILDERS
from compress.core.registry import UnknownName
from compress.graph.groups import NotVerified
from deploy.coverage import __main__ as command
from deploy.coverage import steps
from deploy.coverage.networks import TIMM, TORCHVISION_PIXELS, networks
from deploy.coverage.table import is_passed, table
from tests import toys  # noqa: F401  (registers the builder "toy")

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
    "made_with": {"torch": "2.0"},
}
BAD = {
    "builder": "timm:odd",
    "pixels": 64,
    "passed": ["build"],
    "reason": "no | channels",
    "seconds": 2,
    "made_with": {"torch": "1.9"},
}


def test_the_table() -> None:
    page = table([GOOD, BAD, GOOD | {"builder": "timm:fine", "part": 0.7}], {"torch": "2.0"})
    lines = page.splitlines()
    assert "Made with torch 2.0." in lines
    assert "**1 rows were made with other versions** (`--stale` tries them again): timm:odd." in lines
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
        row = {**(GOOD if "18" in builder else BAD), "builder": builder, "pixels": pixels}
        return row | {"made_with": command.made_with()}

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
    assert command.main([*args, "--stale"]) == 0
    assert len(asked) == 6
    monkeypatch.setattr(command, "made_with", lambda: {"torch": "3.0"})
    assert command.main([*args, "--stale"]) == 0
    assert asked[6:] == [f"torchvision:resnet{k}" for k in (18, 34, 50)]
    rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["builder"] for row in rows] == [f"torchvision:resnet{k}" for k in (18, 34, 50)]


def test_a_network_that_does_not_exist_is_asked_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "coverage.md"
    with pytest.raises(SystemExit) as stopped:
        command.main(["--set", "torchvision", "--out", str(out), "--only", "resnet18", "--only", "resnet51"])
    assert stopped.value.code == 2
    assert "unknown network 'resnet51'. Did you mean 'resnet" in capsys.readouterr().err
    assert not out.exists()


def test_a_failure_says_where_and_why(tmp_path: Path) -> None:
    assert steps.main(["cut", str(tmp_path), "torchvision:resnet19", "32"]) == 1
    facts = json.loads((tmp_path / steps.FACTS).read_text())
    assert facts["passed"] == []
    assert facts["reason"].startswith("UnknownName: unknown torchvision network 'resnet19'. Did you mean 'resnet18'")


class Deaf(nn.Module):
    """A convolution of which only the sign of a constant comes through, and a linear layer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv, self.linear = how, nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits (B, 10)."""
        y_BC = self.conv(x_BCHW).mean((2, 3))
        if self.how == "deaf":
            y_BC = 0 * y_BC
        if self.how == "torn":
            y_BC = x_BCHW.mean((1, 2, 3)).unsqueeze(1) + (10 * y_BC).round()
        if self.how == "infinite":
            y_BC = y_BC / 0
        logits_BC: Tensor = self.linear(y_BC)
        return logits_BC


@pytest.mark.parametrize(
    ("how", "passed", "reason"),
    [
        ("", ["build", "trace", "prune", "backward", "save"], ""),
        ("deaf", [], "the outputs are the same for all inputs"),
        ("infinite", [], "some output is infinite"),
        ("torn", ["build", "trace", "prune"], "the loss does not depend on conv.weight"),
    ],
)
def test_networks_that_would_pass_by_saying_nothing(
    how: str, passed: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUILDERS, "_cards", dict(BUILDERS._cards))

    @BUILDERS.register("deaf")
    def deaf(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build it."""
        return Deaf(how)

    assert steps.main(["cut", str(tmp_path), "deaf", "16"]) == bool(reason)
    facts = json.loads((tmp_path / steps.FACTS).read_text())
    assert facts["passed"] == passed
    assert facts.get("reason", "").startswith(reason)


def test_channels_that_no_output_shows_are_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def traced(module: nn.Module, x_BCHW: Tensor) -> tuple[()]:
        warnings.warn("zeroing some of the channels of a changes no output", NotVerified, 2)
        return ()

    monkeypatch.setattr(steps, "trace_groups", traced)
    assert steps.main(["cut", str(tmp_path), "toy", "16"]) == 1
    facts = json.loads((tmp_path / steps.FACTS).read_text())
    assert (facts["passed"], facts["reason"]) == (["build"], "zeroing some of the channels of a changes no output")


def test_a_network_that_takes_too_long_is_given_up() -> None:
    row = command.tried("torchvision:resnet18", 32, 0.2)
    assert (row["passed"], row["reason"]) == ([], "not done after 0 s")
