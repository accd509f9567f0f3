"""idx files, ours and the real ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from compress.core.task import TASKS
from compress.data.idx import idx_array
from tests.compress.data.tiny_sets import write_idx
from tests.shared_data import shared_data


def test_idx_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]))
    assert idx_array(file).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x0d\1\0\0\0\1xxxx", "not an idx file"),
        (b"\0\0\x08\1\0\0\0\5ab", r"announces \(5,\) but holds 2"),
        (gzip.compress(b"\0\0\x08\1\0\0\0\1a", mtime=0)[:-9], "damaged"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        idx_array(tmp_path / "bad.gz")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize(("folder", "is_packed"), [("{}/raw", True), ("{}/raw", False), ("", True)])
def test_layouts_have_the_same_pictures(name: str, folder: str, is_packed: bool, tmp_path: Path) -> None:
    ours, theirs = {"mnist": ("mnist", "MNIST"), "fashion_mnist": ("fashion-mnist", "FashionMNIST")}[name]
    write_idx(tmp_path / "a" / ours)
    write_idx(tmp_path / "b" / folder.format(theirs), is_packed=is_packed)
    first, second = (TASKS.bind(name, root=str(tmp_path / part), validation=10)() for part in "ab")
    assert (first.digest == second.digest) is is_packed
    for (x_BCHW, y_B), (other_BCHW, other_B) in zip(
        first.batches("train", batch_size=20), second.batches("train", batch_size=20), strict=True
    ):
        assert x_BCHW.equal(other_BCHW)
        assert y_B.equal(other_B)


def test_other_sizes_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path)
    content = bytes([0, 0, 8, 3, 0, 0, 0, 60, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(240)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match="28 x 28"):
        TASKS.bind("mnist", root=str(tmp_path), validation=10)().split("train")


@pytest.mark.parametrize(("name", "mean"), [("mnist", 0.1307), ("fashion_mnist", 0.2860)])
def test_the_real_files(name: str, mean: float) -> None:
    task = TASKS.bind(name, root=str(shared_data()))()
    opened = task.opened()
    assert [len(opened.split(split)) for split in ("train", "validation", "test")] == [55_000, 5_000, 10_000]
    assert opened.input.mean == (mean,)
    x_BCHW, _ = next(task.batches("validation", batch_size=5000))
    assert abs(float(x_BCHW.mean())) < 0.02
    assert abs(float(x_BCHW.std()) - 1) < 0.02
    classes = np.bincount(task.split("validation").labels_B)
    assert classes.sum() == 5000
    assert classes.min() > 400
