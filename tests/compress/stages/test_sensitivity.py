"""The stage sensitivity on the toys."""

import json

import pytest
import torch
from torch import nn

from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.core.stage import STAGES, StageCall
from compress.measure import cost_of
from compress.models import borrowed  # noqa: F401  (registers import_path)
from compress.prune.sensitivity import Curve, Judge, agreement
from compress.stages.sensitivity import CURVES, JOURNAL, SensitivityConfig, sensitivity
from compress.train.scoring import accuracy
from tests.compress.search.toy_training import trained_toy
from tests.toys import TOY_INPUT, toy_entry, toy_task

QUICK = {"ratios": (0.5, 0.25), "recalibrate_batches": 2, "batch_size": 32}


def run(tmp_path, model=None, **options):
    config = SensitivityConfig(**(QUICK | options))
    parents = {"model": toy_entry(model or trained_toy())}
    tmp_path.mkdir(exist_ok=True)
    return sensitivity(StageCall(config=config, parents=parents, scratch=tmp_path, optional_task=toy_task()))


def test_default_configuration_is_empty():
    assert SensitivityConfig().as_json() == {}
    assert STAGES["sensitivity"].extra["roles"] == ("model",)
    assert SensitivityConfig.from_json('{"ratios": [0.5]}').ratios == (0.5,)


def test_the_report_and_the_file(tmp_path):
    result = run(tmp_path, criterion="taylor")
    report = json.loads(json.dumps(result.report))
    assert result.model is None
    assert [line["group"] for line in report["curves"]] == ["conv1", "block.conv1", "conv2", "block"]
    assert report["cost"] == json.loads(json.dumps(cost_of(trained_toy()).as_json()))
    assert report["validation_accuracy"] == accuracy(trained_toy().module, toy_task(), "validation")
    assert set(report["whole"]) == {"loss", "accuracy", "macs", "params"}
    found = [Curve.from_json(line) for line in report["curves"]]
    assert report["damage"] == {curve.group: curve.damage for curve in found}
    assert found[2].kept == (16, 8, 4)
    stored = json.loads(result.files[CURVES].read_text())
    assert stored["curves"] == report["curves"]
    assert stored["model"] == "toy-0000000000000000"
    assert stored["config"]["criterion"] == {"name": "taylor"}
    assert agreement(found, [Curve.from_json(line) for line in stored["curves"]])["kendall"] == pytest.approx(1)


def test_same_arguments_same_result(tmp_path):
    assert run(tmp_path / "a").report == run(tmp_path / "b").report
    limited = run(tmp_path / "c", validation_limit=16).report
    assert limited["whole"]["accuracy"] * 16 == pytest.approx(round(limited["whole"]["accuracy"] * 16))


def test_a_stage_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    expected = run(tmp_path / "undisturbed").report
    judged, made = Judge._judged, []

    def stopped(self, masks):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(masks)
        return judged(self, masks)

    monkeypatch.setattr(Judge, "_judged", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    assert len((tmp_path / "stopped" / JOURNAL).read_text().splitlines()) == 3
    made[:] = [None] * 4
    assert run(tmp_path / "stopped").report == expected
    assert len(made) == 4 + 8 - 3


def test_the_parent_stays_as_it_was(tmp_path):
    before = {name: value.clone() for name, value in trained_toy().module.state_dict().items()}
    run(tmp_path)
    assert all(torch.equal(before[name], value) for name, value in trained_toy().module.state_dict().items())


def flat(shape, num_classes):
    """Build one linear layer, of which nothing can be cut."""
    channels, height, width = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes))


def test_a_network_without_anything_to_cut_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_ALLOW_IMPORT", "1")
    builder = BUILDERS.bind("import_path", path="tests.compress.stages.test_sensitivity:flat")
    model = Model.build(builder, TOY_INPUT, seed=0)
    with pytest.raises(ValueError, match="nothing to measure"):
        run(tmp_path, model=model)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ratios": ()}, "at least one part"),
        ({"ratios": (0.5, 1.0)}, r"ratios=\(0\.5, 1\.0\)"),
        ({"score_batches": 0}, "score_batches=0: must be 1 or more"),
        ({"recalibrate_batches": -1}, "recalibrate_batches=-1: must be 0 or more"),
        ({"validation_limit": -1}, "validation_limit=-1: must be 0 or more"),
        ({"batch_size": 0}, "batch_size=0: must be 1 or more"),
        ({"ratio": (0.5,)}, "Did you mean 'ratios'"),
    ],
)
def test_senseless_configurations_are_refused_before_anything_runs(wrong, message):
    with pytest.raises(ValueError, match=message):
        SensitivityConfig.from_json(wrong)
