import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from compress.core.lineage import BUILDERS, Lineage, Step, rebuild
from compress.core.model import CorruptModel, Model
from tests.toys import TOY_INPUT, toy_model


def test_a_saved_model_loads_with_the_same_outputs(tmp_path):
    model = toy_model(seed=3)
    model.save(tmp_path)
    x_BCHW = TOY_INPUT.example(4)
    assert torch.equal(Model.load(tmp_path)(x_BCHW), model(x_BCHW))


def test_another_process_rebuilds_the_same_model(tmp_path):
    model = toy_model(seed=3)
    model.save(tmp_path / "model")
    code = (
        "import sys, numpy, tests.toys\nfrom compress.core.model import Model\n"
        "model = Model.load(__import__('pathlib').Path(sys.argv[1]))\n"
        "numpy.save(sys.argv[2], model(model.input.example(4)).numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "model", tmp_path / "out.npy"], check=True)
    import numpy

    expected = model(TOY_INPUT.example(4)).numpy()
    assert numpy.abs(numpy.load(tmp_path / "out.npy") - expected).max() < 1e-6


def test_the_same_seed_builds_the_same_weights():
    first, second, other = (toy_model(seed).module.conv1.weight for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["weights.safetensors", "architecture.json", "input.json"])
def test_a_changed_file_is_refused(tmp_path, name):
    toy_model().save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptModel, match="changed after it was saved"):
        Model.load(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    toy_model().save(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(CorruptModel, match=r"weights\.safetensors is missing"):
        Model.load(tmp_path)
    with pytest.raises(CorruptModel, match="no model in"):
        Model.load(tmp_path / "elsewhere")


def test_a_newer_format_is_refused(tmp_path):
    from compress.core.model import sha256_of

    toy_model().save(tmp_path)
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "architecture.json": sha256_of(path)}))
    with pytest.raises(CorruptModel, match="newer than 1"):
        Model.load(tmp_path)


def test_nothing_is_pickled(tmp_path):
    toy_model().save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "architecture.json",
        "input.json",
        "manifest.json",
        "weights.safetensors",
    ]
    assert not any(path.read_bytes().startswith((b"PK", b"\x80")) for path in tmp_path.iterdir())


def test_lineage_survives_json():
    lineage = Lineage(builder={"name": "toy"}, shape=(1, 8, 8), num_classes=3).then(
        Step(stage="train", config={"seed": 1})
    )
    assert Lineage.from_json(json.loads(json.dumps(lineage.as_json()))) == lineage


def test_rebuild_of_a_bare_lineage_is_the_builder():
    lineage = Lineage(builder={"name": "toy"}, shape=(1, 8, 8), num_classes=3)
    assert rebuild(lineage).linear.out_features == 3


def test_copy_and_then_leave_the_model_alone():
    model = toy_model()
    copy = model.copy()
    nn.init.zeros_(copy.module.linear.weight)
    assert model.module.linear.weight.abs().sum() > 0
    later = model.then(copy.module, Step(stage="x"))
    assert [step.stage for step in later.lineage.steps] == ["x"]
    assert model.lineage.steps == ()
    assert BUILDERS["toy"].name == "toy"
