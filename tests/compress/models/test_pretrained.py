"""Archives of weights: what loads, what is refused, and the published accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import compress.models  # noqa: F401
from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.core.task import InputSpec
from compress.models.pretrained import load_npz

#: The preprocessing that the archived networks were trained with.
CIFAR = InputSpec(
    shape=(3, 32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), class_names=tuple(map(str, range(10)))
)


def _model(depth: int = 8, width: int = 2, seed: int = 0) -> Model:
    return Model.build(BUILDERS.bind("resnet_cifar", depth=depth, width=width), CIFAR, seed=seed)


def _arrays(model: Model) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.module.state_dict().items()}


def _write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)
    return path


def test_gives_a_new_model_with_the_weights(tmp_path: Path) -> None:
    source, target = _model(seed=1), _model(seed=2)
    before = _arrays(target)
    loaded = load_npz(target, _write(tmp_path / "w.npz", _arrays(source)))
    x_BCHW = CIFAR.example()
    assert torch.equal(loaded(x_BCHW), source(x_BCHW))
    assert not torch.equal(loaded(x_BCHW), target(x_BCHW))
    assert all(np.array_equal(before[name], value) for name, value in _arrays(target).items())
    assert loaded.lineage == target.lineage


def test_counters_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    arrays = {name: value for name, value in _arrays(_model()).items() if "num_batches" not in name}
    load_npz(_model(), _write(tmp_path / "w.npz", arrays))


def test_double_precision_is_rounded(tmp_path: Path) -> None:
    arrays = {name: value.astype(np.float64) for name, value in _arrays(_model(seed=1)).items()}
    loaded = load_npz(_model(), _write(tmp_path / "w.npz", arrays))
    assert loaded.module.conv1.weight.dtype == torch.float32
    assert torch.equal(loaded.module.conv1.weight, _model(seed=1).module.conv1.weight)


def test_missing_and_unknown_names_are_listed(tmp_path: Path) -> None:
    arrays = _arrays(_model())
    arrays["classifier.weight"] = arrays.pop("linear.weight")
    with pytest.raises(ValueError, match=r"missing: linear\.weight; not in the model: classifier\.weight"):
        load_npz(_model(), _write(tmp_path / "w.npz", arrays))


def test_shapes_are_compared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"conv1\.weight is \(3, 3, 3, 3\), the model's \(2, 3, 3, 3\).*more"):
        load_npz(_model(width=2), _write(tmp_path / "w.npz", _arrays(_model(width=3))))


def test_a_deeper_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not in the model: layer1\.1\.conv1\.weight"):
        load_npz(_model(depth=8), _write(tmp_path / "w.npz", _arrays(_model(depth=14))))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no weights at .*absent\.npz"):
        load_npz(_model(), tmp_path / "absent.npz")


def test_not_an_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"not an \.npz archive"):
        load_npz(_model(), tmp_path / "w.npy")


def test_pickles_are_not_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "w.npz", {"conv1.weight": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ValueError, match="cannot be read as plain arrays"):
        load_npz(_model(), path)


def test_texts_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not numbers: conv1\.weight"):
        load_npz(_model(), _write(tmp_path / "w.npz", {"conv1.weight": np.array(["a"])}))


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "num_correct"), [(20, 9173), (56, 9339)])
def test_published_accuracy_exactly(depth: int, num_correct: int) -> None:
    import compress.data.cifar  # noqa: F401
    from compress.core.task import TASKS
    from tests.shared_data import shared_data

    data = shared_data()
    task = TASKS.bind("cifar10", root=str(data))().opened()
    weights = data / "weights" / f"resnet{depth}_cifar10.npz"
    model = load_npz(Model.build(BUILDERS.bind("resnet_cifar", depth=depth), task.input, seed=0), weights)
    found = sum(
        int(task.correct(model(x_BCHW), target_B).sum()) for x_BCHW, target_B in task.batches("test", batch_size=250)
    )
    assert (found, len(task.split("test"))) == (num_correct, 10_000)
