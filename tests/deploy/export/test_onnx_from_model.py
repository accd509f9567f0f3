from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.core.task import InputSpec
from deploy.export.onnx_from_model import ParityError, onnx_from_model, spec_of_onnx
from tests.deploy.export.trained_toy import trained_toy
from tests.toys import TOY_INPUT, toy_model


def normalised(builder: str, shape: tuple[int, int, int], **options: object) -> Model:
    """Return an untrained model whose batch norms know their inputs, so that outputs are of ordinary size."""
    import compress.models.borrowed
    import compress.models.resnet_cifar  # noqa: F401

    spec = InputSpec(shape=shape, mean=(0.5,) * shape[0], std=(0.25,) * shape[0], class_names=tuple("abcdefghij"))
    model = Model.build(BUILDERS.bind(builder, **options), spec, seed=0)
    model.module.train()
    with torch.no_grad():
        for seed in range(3):
            model.module(torch.randn(16, *shape, generator=torch.Generator().manual_seed(seed)))
    model.module.eval()
    return model


def answers(path: Path, x_BCHW: Tensor) -> np.ndarray:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
        None, {"input": x_BCHW.numpy()}
    )[0]


def test_the_file_answers_like_the_model_at_any_batch(tmp_path: Path) -> None:
    model = trained_toy()
    made = onnx_from_model(model, tmp_path / "deep" / "model.onnx")
    assert made.size_bytes == made.path.stat().st_size
    assert made.parity_max_abs <= 1e-4
    assert made.opset == 18
    for batch in (1, 2, 5, 64):
        x_BCHW = model.input.example(batch)
        np.testing.assert_allclose(answers(made.path, x_BCHW), model(x_BCHW).numpy(), atol=1e-4)


def test_one_input_one_output_with_a_named_batch(tmp_path: Path) -> None:
    graph = onnx.load(str(onnx_from_model(toy_model(), tmp_path / "m.onnx").path)).graph
    assert [(item.name, item.type.tensor_type.shape.dim[0].dim_param) for item in (*graph.input, *graph.output)] == [
        ("input", "batch"),
        ("logits", "batch"),
    ]
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim[1:]] == [1, 8, 8]


def test_batch_norms_are_folded_into_convolutions(tmp_path: Path) -> None:
    kinds = [node.op_type for node in onnx.load(str(onnx_from_model(toy_model(), tmp_path / "m.onnx").path)).graph.node]
    assert kinds.count("Conv") == 4
    assert "BatchNormalization" not in kinds


def test_metadata_travels_in_the_file(tmp_path: Path) -> None:
    path = onnx_from_model(toy_model(), tmp_path / "m.onnx", ref="train-1").path
    found = {item.key: item.value for item in onnx.load(str(path)).metadata_props}
    assert found["ref"] == "train-1"
    assert json.loads(found["class_names"]) == ["left", "right", "none"]
    assert spec_of_onnx(path) == TOY_INPUT


def test_a_foreign_file_has_no_preprocessing(tmp_path: Path) -> None:
    path = onnx_from_model(toy_model(), tmp_path / "m.onnx").path
    graph = onnx.load(str(path))
    del graph.metadata_props[:]
    onnx.save(graph, str(path))
    with pytest.raises(ValueError, match="carries no preprocessing"):
        spec_of_onnx(path)


def test_equal_models_make_equal_files_and_stay_as_they_are(tmp_path: Path) -> None:
    model = toy_model()
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    first, second = (onnx_from_model(model, tmp_path / name).path.read_bytes() for name in ("a.onnx", "b.onnx"))
    assert first == second
    assert all(torch.equal(before[key], value) for key, value in model.module.state_dict().items())


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use 18 or newer"):
        onnx_from_model(toy_model(), tmp_path / "m.onnx", opset=11)


class Drifting(nn.Module):
    """Adds to its input how often it was called: what a traced graph cannot repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + float(self.calls)


def test_a_file_that_differs_is_refused_with_the_layer(tmp_path: Path) -> None:
    model = trained_toy().copy()
    model.module.bn2 = nn.Sequential(model.module.bn2, Drifting())
    with pytest.raises(ParityError, match=r"first layer that differs is bn2\.1"):
        onnx_from_model(model, tmp_path / "m.onnx")


@pytest.mark.parametrize("depth", [20, 56])
def test_cifar_resnets(tmp_path: Path, depth: int) -> None:
    model = normalised("resnet_cifar", (3, 32, 32), depth=depth)
    made = onnx_from_model(model, tmp_path / "m.onnx")
    assert made.parity_max_abs <= 1e-4
    kinds = {node.op_type for node in onnx.load(str(made.path)).graph.node}
    assert "GlobalAveragePool" in kinds


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("densenet121", "efficientnet_b0")]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", *SLOW])
def test_torchvision_networks(tmp_path: Path, name: str) -> None:
    model = normalised(f"torchvision:{name}", (3, 64, 64))
    made = onnx_from_model(model, tmp_path / "m.onnx")
    x_BCHW = model.input.example(3)
    expected_BC = model(x_BCHW).numpy()
    assert np.abs(expected_BC).max() > 1e-3
    np.testing.assert_allclose(answers(made.path, x_BCHW), expected_BC, atol=1e-4)


class Uneven(nn.Module):
    """A pooling to a size that does not divide its input's: the TorchScript exporter refuses it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.linear = nn.Linear(64, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.linear(self.pool(self.conv(x_BCHW)).flatten(1))


def test_what_the_first_exporter_cannot_say_goes_to_the_second(tmp_path: Path) -> None:
    torch.manual_seed(0)
    toy = toy_model()
    made = onnx_from_model(Model(Uneven().eval(), toy.input, toy.lineage), tmp_path / "m.onnx")
    assert made.parity_max_abs <= 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]
