"""PadShortcut: channels placed by a table, zeros elsewhere."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.models.resnet_cifar import BasicBlock, PadShortcut

X_BCHW = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4) + 1

SOURCES = {
    "centred": (-1, 0, 1, 2, -1),
    "all": (0, 1, 2),
    "run behind": (1, 2, -1, -1),
    "run in front": (-1, 0),
    "one": (2,),
    "gap": (0, -1, 2),
    "turned": (2, 1, 0),
    "jump": (0, 2),
    "twice": (1, 1),
    "none": (-1, -1),
}


def _expected(source: tuple[int, ...], stride: int, x_BCHW: Tensor) -> Tensor:
    pixels = x_BCHW[:, :, ::stride, ::stride]
    zeros = torch.zeros_like(pixels[:, 0])
    return torch.stack([zeros if channel < 0 else pixels[:, channel] for channel in source], 1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_places_channels(source: tuple[int, ...], stride: int) -> None:
    shortcut = PadShortcut(3, len(source), stride, source)
    assert torch.equal(shortcut(X_BCHW), _expected(source, stride, X_BCHW))


def test_odd_pictures_match_the_convolution_beside() -> None:
    x_BCHW = torch.ones(1, 2, 7, 5)
    beside = nn.Conv2d(2, 4, 3, stride=2, padding=1)
    assert PadShortcut.centred(2, 4, 2)(x_BCHW).shape == beside(x_BCHW).shape == (1, 4, 4, 3)


def test_centred_by_hand() -> None:
    assert PadShortcut.centred(16, 32, 2).source == (*[-1] * 8, *range(16), *[-1] * 8)
    assert PadShortcut.centred(2, 5, 2).source == (-1, 0, 1, -1, -1)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_adds_nothing_to_the_state(source: tuple[int, ...]) -> None:
    shortcut = PadShortcut(3, len(source), 2, source)
    assert not shortcut.state_dict()
    assert not list(shortcut.parameters())


def test_keep_out_selects_outputs() -> None:
    shortcut = PadShortcut.centred(3, 7, 2)
    cut = shortcut.keep_out([1, 2, 4, 6])
    assert (cut.in_channels, cut.out_channels, cut.stride, cut.source) == (3, 4, 2, (-1, 0, 2, -1))
    assert torch.equal(cut(X_BCHW), shortcut(X_BCHW)[:, [1, 2, 4, 6]])


def test_keep_in_equals_zeroing_the_cut_inputs() -> None:
    shortcut = PadShortcut.centred(3, 7, 2)
    cut = shortcut.keep_in([0, 2])
    assert (cut.in_channels, cut.out_channels, cut.source) == (2, 7, (-1, -1, 0, -1, 1, -1, -1))
    zeroed = X_BCHW.clone()
    zeroed[:, 1] = 0
    assert torch.equal(cut(X_BCHW[:, [0, 2]]), shortcut(zeroed))


def test_cutting_everything_it_carried_gives_zeros() -> None:
    cut = PadShortcut.centred(3, 7, 2).keep_out([0, 6]).keep_in([1])
    assert cut.source == (-1, -1)
    assert torch.equal(cut(X_BCHW[:, :1]), torch.zeros(2, 2, 2, 2))


def test_gradient_flows_back_to_the_pixels_taken() -> None:
    x_BCHW = X_BCHW.clone().requires_grad_()
    PadShortcut(3, 3, 2, (0, -1, 2))(x_BCHW).sum().backward()
    assert x_BCHW.grad is not None
    assert x_BCHW.grad.sum((0, 2, 3)).tolist() == [8.0, 0.0, 8.0]
    assert x_BCHW.grad[:, :, 1::2].sum() == 0


def test_copies_and_prints() -> None:
    shortcut = PadShortcut(3, 2, 2, (2, 0))
    assert torch.equal(copy.deepcopy(shortcut)(X_BCHW), shortcut(X_BCHW))
    assert repr(shortcut) == "PadShortcut(3, 2, stride=2)"


def test_a_table_that_does_not_fit_is_a_programming_error() -> None:
    with pytest.raises(AssertionError):
        PadShortcut(3, 2, 1, (0, 1, 2))
    with pytest.raises(AssertionError):
        PadShortcut(3, 1, 1, (3,))


def test_only_identity_blocks_can_be_dropped() -> None:
    assert BasicBlock(4, 4, 1).is_droppable
    assert not BasicBlock(4, 8, 1).is_droppable
    assert not BasicBlock(4, 4, 2).is_droppable


@pytest.mark.slow
@pytest.mark.parametrize("name", ["centred", "jump", "gap", "none"])
def test_exports_to_onnx_with_any_batch(name: str, tmp_path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    source = SOURCES[name]
    net = nn.Sequential(nn.Conv2d(1, 3, 1), PadShortcut(3, len(source), 2, source)).eval()
    path = tmp_path / "shortcut.onnx"
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.onnx.export(
        net, (torch.zeros(2, 1, 4, 4),), str(path), dynamo=True, dynamic_shapes=({0: batch},), input_names=["x"]
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for size in (1, 5):
        x_BCHW = torch.randn(size, 1, 4, 4, generator=torch.Generator().manual_seed(size))
        (found,) = session.run(None, {"x": x_BCHW.numpy()})
        assert np.allclose(found, net(x_BCHW).detach().numpy(), atol=1e-6)
