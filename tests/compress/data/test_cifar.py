"""CIFAR in three layouts, ours and the real archives."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.core.task import TASKS, Task
from compress.data.cifar import NAMES_10, NAMES_100
from compress.data.cifar_files import python_batch, records, strips
from tests.compress.data.tiny_sets import (
    labels_of,
    numbered,
    numbers,
    write_binary_10,
    write_binary_100,
    write_python_batch,
    write_strips,
)
from tests.shared_data import shared_data

#: Pickle opcodes that would call os.system, as a hostile file would spell them.
HOSTILE = b"cos\nsystem\nU\x0ftouch hacked.txt\x85R."


def everything(task: Task) -> tuple[list[int], list[int]]:
    """Return picture numbers and labels of train and validation, by picture number."""
    pairs = []
    for split in ("train", "validation"):
        part = task.split(split)
        pairs += zip(numbers(part.images(torch.arange(len(part))).numpy()), part.labels_B.tolist(), strict=True)
    return tuple(list(column) for column in zip(*sorted(pairs), strict=True))


def write_python_10(folder: Path) -> None:
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        write_python_batch(folder / name, numbered(20, 32, 3, 20 * i), labels_of(20, 10).tolist())


@pytest.mark.parametrize(
    ("folder", "write"),
    [
        ("cifar-10-batches-bin", write_binary_10),
        ("cifar-10-batches-py", write_python_10),
        ("cifar10.npz", write_strips),
    ],
)
def test_layouts_have_the_same_pictures(folder: str, write, tmp_path: Path) -> None:
    write(tmp_path / folder)
    task = TASKS.bind("cifar10", root=str(tmp_path), validation=20)()
    found, labels = everything(task)
    assert found == list(range(100))
    assert labels == labels_of(100, 10).tolist()
    assert task.input.mean == (0.485, 0.456, 0.406)
    assert task.input.class_names[0] == "airplane"


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    write_binary_100(tmp_path / "a" / "cifar-100-binary")
    for part, count, first in (("train", 300, 0), ("test", 100, 300)):
        file = tmp_path / "b" / "cifar-100-python" / part
        write_python_batch(file, numbered(count, 32, 3, first), labels_of(count, 100).tolist(), b"fine_labels")
    for part in "ab":
        task = TASKS.bind("cifar100", root=str(tmp_path / part), validation=100)()
        assert everything(task)[1] == labels_of(300, 100).tolist()
    assert sorted(set(NAMES_100)) == list(NAMES_100)
    assert len(NAMES_100) == 100


def test_a_binary_file_that_was_cut_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(3072))
    with pytest.raises(ValueError, match="no multiple of 3073"):
        records(tmp_path / "x.bin", num_labels=1)


def test_strips_must_match_their_labels(tmp_path: Path) -> None:
    write_strips(tmp_path / "cifar10.npz", kind="jpeg")
    with np.load(tmp_path / "cifar10.npz") as archive:
        images, _ = strips(archive, "train")
        arrays = dict(archive)
    assert images.shape == (100, 3, 32, 32)
    arrays["train_labels"] = np.append(arrays["train_labels"], np.uint8(0))
    np.savez(tmp_path / "cifar10.npz", **arrays)
    with np.load(tmp_path / "cifar10.npz") as archive, pytest.raises(ValueError, match="101 train labels but 100"):
        strips(archive, "train")


def test_a_python_batch_is_read_and_never_run(tmp_path: Path) -> None:
    file = tmp_path / "batch"
    write_python_batch(file, numbered(300, 32, 3), labels_of(300, 10).tolist())
    images, labels = python_batch(file, label_key=b"labels")
    assert numbers(images) == list(range(300))
    assert labels.tolist() == labels_of(300, 10).tolist()
    file.write_bytes(b"\x80\x02" + HOSTILE)
    with pytest.raises(ValueError, match="no batch of CIFAR"):
        python_batch(file, label_key=b"labels")
    assert not Path("hacked.txt").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04\x95", b"T\xff\xff\xff\x7fab", b"cnumpy", b"\x80\x02}U\x06labels]K\x01."]
)
def test_other_files_are_no_python_batch(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(ValueError, match="no batch of CIFAR"):
        python_batch(tmp_path / "batch", label_key=b"labels")


def test_missing_data_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match=r"(?s)cifar10\.npz.*cifar-10-batches-bin.*cifar-10-batches-py.*SECATEUR_DATA"):
        TASKS.bind("cifar10")()


@pytest.mark.slow
def test_the_real_archive_of_cifar10(own_cache: Path) -> None:
    folder = shared_data()
    task = TASKS.bind("cifar10", root=str(folder))().opened()
    assert [len(task.split(split)) for split in ("train", "validation", "test")] == [45_000, 5_000, 10_000]
    with np.load(folder / "cifar10_small.npz") as small:
        rows = small["test_index"][:50]
        assert tuple(small["class_names"]) == NAMES_10
        found = task.split("test").images(torch.from_numpy(rows.astype(np.int64))).numpy()
        assert (found == small["test_images"][:50].transpose(0, 3, 1, 2)).all()
        assert (task.split("test").labels_B.numpy()[rows] == small["test_labels"][:50]).all()
    assert list(own_cache.glob("decoded/cifar10-*/train_images.npy"))


#: MD5 of the published `data_batch_1` of the "python version".
PUBLISHED_BATCH_1 = "c99cafc152244af753f735de768cd75f"


@pytest.mark.slow
def test_the_published_python_batch(tmp_path: Path) -> None:
    """The writer of these tests gives the published file to the byte, and the reader reads it."""
    with np.load(shared_data() / "cifar10.npz") as archive:
        images, labels = strips(archive, "train")
        names = archive["train_files"].tobytes().split(b"\n")
    file = tmp_path / "data_batch_1"
    write_python_batch(file, images[:10_000], labels[:10_000].tolist(), names=names[:10_000])
    assert hashlib.md5(file.read_bytes()).hexdigest() == PUBLISHED_BATCH_1
    found, found_labels = python_batch(file, label_key=b"labels")
    assert (found == images[:10_000]).all()
    assert (found_labels == labels[:10_000]).all()


@pytest.mark.slow
def test_the_real_archive_of_cifar100() -> None:
    folder = shared_data()
    task = TASKS.bind("cifar100", root=str(folder))().opened()
    assert task.split("validation").labels_B.bincount().tolist() == [50] * 100
    assert task.split("test").labels_B.bincount().tolist() == [100] * 100
    with np.load(folder / "cifar100.npz") as archive:
        assert tuple(archive["fine_names"]) == NAMES_100
