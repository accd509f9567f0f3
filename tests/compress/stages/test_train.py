import hashlib
import json

import numpy as np
import pytest

from compress.core.lineage import rebuild
from compress.core.model import Model
from compress.core.registry import UnknownName
from compress.core.stage import STAGES, StageCall, identity
from compress.stages.train import TrainConfig, train
from compress.train.checkpoint import state_digest
from compress.train.scoring import accuracy
from tests.toys import toy_model, toy_task


def call(scratch, **options):
    config = TrainConfig(**{"builder": "toy", "epochs": 4, "batch_size": 16, **options})
    return StageCall(config=config, parents={}, scratch=scratch, optional_task=toy_task())


def test_trains_and_reports(tmp_path):
    result = train(call(tmp_path))
    assert result.report["validation_accuracy"] == accuracy(result.model.module, toy_task(), "validation")
    assert result.report["validation_accuracy"] > 0.9
    assert result.report["cost"]["params"] == sum(p.numel() for p in result.model.module.parameters())
    assert len(result.report["history"]) == result.report["num_epochs"] == 4
    assert json.loads(json.dumps(result.report)) == result.report


def test_the_record_rebuilds_the_model(tmp_path):
    result = train(call(tmp_path / "scratch", epochs=1))
    (step,) = result.model.lineage.steps
    assert (step.stage, step.plan) == ("train", None)
    assert step.config["epochs"] == 1.0
    assert set(rebuild(result.model.lineage).state_dict()) == set(result.model.module.state_dict())
    result.model.save(tmp_path / "model")
    assert state_digest(Model.load(tmp_path / "model").module) == state_digest(result.model.module)


def test_same_call_same_weights(tmp_path):
    first, second = (train(call(tmp_path / name)) for name in ("a", "b"))
    assert state_digest(first.model.module) == state_digest(second.model.module)


def test_weights_from_a_file(tmp_path):
    given = toy_model(7).module
    np.savez(tmp_path / "w.npz", **{name: value.numpy() for name, value in given.state_dict().items()})
    result = train(call(tmp_path / "scratch", epochs=0, weights=str(tmp_path / "w.npz")))
    assert state_digest(result.model.module) == state_digest(given)
    assert result.report["num_epochs"] == 0


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no weights at .*nothing\.npz"):
        train(call(tmp_path, weights=str(tmp_path / "nothing.npz")))


def test_weights_count_by_their_content(tmp_path):
    path, other = tmp_path / "w.npz", tmp_path / "elsewhere.npz"
    path.write_bytes(b"first")
    other.write_bytes(b"first")
    config = TrainConfig(weights=str(path))
    assert config.as_json() == {"weights": f"sha256:{hashlib.sha256(b'first').hexdigest()}"}
    assert config.weights == str(path)
    before, moved = (identity("train", TrainConfig(weights=str(each)), {}, toy_task())[0] for each in (path, other))
    assert before == moved
    path.write_bytes(b"second")
    assert identity("train", config, {}, toy_task())[0] != before
    path.unlink()
    with pytest.raises(ValueError, match=r"no weights at .*w\.npz"):
        identity("train", config, {}, toy_task())


def test_no_task_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="needs a task"):
        train(StageCall(config=TrainConfig(builder="toy"), parents={}, scratch=tmp_path))


def test_a_misspelt_builder_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'resnet_cifar'"):
        TrainConfig(builder="resnet_cifr")


def test_card_and_identity():
    card = STAGES["train"]
    assert (card.extra["config"], card.extra["roles"]) == (TrainConfig, ())
    assert TrainConfig().as_json() == {}
    default, _ = identity("train", TrainConfig(), {}, toy_task())
    other, _ = identity("train", TrainConfig(seed=1), {}, toy_task())
    assert default != other
