"""Folders and archives that users bring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress.core.task import TASKS
from compress.data import image_folder
from compress.data.digits import enlarged
from compress.data.image_folder import picture
from tests.compress.data.tiny_sets import write_arrays, write_folder


def folder_task(root: Path, **options: object):
    return TASKS.bind("image_folder", root=str(root), size=8, **options)()


def test_folders_of_splits_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_folder(root, {"train": 10, "val": 3, "test": 4})
    task = folder_task(root).opened()
    assert {name: len(task.split(name)) for name in ("train", "validation", "test")} == {
        "train": 20,
        "validation": 6,
        "test": 8,
    }
    assert task.input.class_names == ("ant", "bee")
    part = task.split("validation")
    assert part.images(torch.arange(6))[:, 1, 4, 4].tolist() == [0, 0, 0, 40, 40, 40]
    assert part.labels_B.tolist() == [0, 0, 0, 1, 1, 1]


def test_without_folders_a_fifth_is_test_and_a_tenth_of_the_rest_validation(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_folder(root, {"": 25})
    task = folder_task(root).opened()
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [36, 4, 10]
    assert task.split("test").labels_B.bincount().tolist() == [5, 5]


def test_many_pictures_are_decoded_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    write_folder(root, {"train": 10, "test": 3})
    kept = next(folder_task(root).batches("train", batch_size=7))
    monkeypatch.setattr(image_folder, "LARGEST_DECODED_BYTES", 0)
    monkeypatch.setattr(image_folder, "decoded", None)
    lazy = next(folder_task(root).batches("train", batch_size=7))
    assert kept[0].equal(lazy[0])
    assert kept[1].equal(lazy[1])


def test_pictures_are_fitted_and_turned(tmp_path: Path) -> None:
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (picture(tmp_path / "wide.png", (3, 4, 4)) == 200).all()
    assert picture(tmp_path / "wide.png", (1, 2, 2)).shape == (1, 2, 2)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"broken\.png cannot be decoded"):
        picture(tmp_path / "broken.png", (3, 4, 4))


def test_grey_has_one_channel(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_folder(root, {"": 10})
    task = folder_task(root, grey=True, flip=False, padding=0)
    assert next(task.batches("train", batch_size=2))[0].shape == (2, 1, 8, 8)
    assert task.augment is None


def test_bad_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs root="):
        TASKS.bind("image_folder")()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="is no folder"):
        folder_task(tmp_path / "file")
    root = tmp_path / "pictures"
    (root / "ant").mkdir(parents=True)
    with pytest.raises(ValueError, match="1 folders of classes"):
        folder_task(root)
    (root / "bee").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        folder_task(root)
    with pytest.raises(ValueError, match="size=0"):
        TASKS.bind("image_folder", root=str(root), size=0)()


def test_a_class_that_training_lacks_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_folder(root, {"train": 3})
    write_folder(root, {"val": 1}, classes=("ant", "cat"))
    with pytest.raises(ValueError, match="training does not have: cat"):
        folder_task(root)


def arrays_task(path: Path, **options: object):
    return TASKS.bind("arrays", root=str(path), **options)()


def test_arrays_describe_themselves(tmp_path: Path) -> None:
    write_arrays(tmp_path / "grey.npz", channels=1)
    write_arrays(tmp_path / "named.npz", class_names=np.array(["n", "e", "s", "w"]))
    grey, named = arrays_task(tmp_path / "grey.npz"), arrays_task(tmp_path / "named.npz", mean=0.4, flip=True)
    assert grey.input.shape == (1, 8, 8)
    assert grey.input.class_names == ("0", "1", "2", "3")
    assert named.input.shape == (3, 8, 8)
    assert named.input.mean == (0.4, 0.4, 0.4)
    assert named.input.class_names == ("n", "e", "s", "w")
    assert [len(named.opened().split(name)) for name in ("train", "validation", "test")] == [45, 5, 12]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.zeros((50, 8, 8), np.float32)}, "store uint8"),
        ({"test_images": np.zeros((12, 9, 9, 3), np.uint8)}, "another shape"),
        ({"test_labels": np.zeros(12)}, "store integers"),
        ({"class_names": np.array([1, 2, 3, 4])}, "array of strings"),
        ({"class_names": np.array(["a", None], dtype=object)}, "array of strings"),
        ({"train_labels": np.array([{}] * 50, dtype=object)}, "store integers"),
    ],
)
def test_bad_arrays_are_explained(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    write_arrays(tmp_path / "x.npz", **change)
    with pytest.raises(ValueError, match=message):
        arrays_task(tmp_path / "x.npz")


def test_other_archives_are_explained(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", train_images=np.zeros(1))
    with pytest.raises(ValueError, match="lacks train_labels, test_images, test_labels; it holds train_images"):
        arrays_task(tmp_path / "few.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match="is not an"):
        arrays_task(tmp_path / "text.npz")
    with pytest.raises(ValueError, match="needs root="):
        TASKS.bind("arrays")()


def test_digits_are_enlarged_by_hand() -> None:
    small = np.zeros((1, 8, 8), np.uint8)
    small[0, 0, 0] = 16
    large = enlarged(small, 16)
    assert large.shape == (1, 1, 16, 16)
    assert large[0, 0, :4, :4].tolist() == [[255, 191, 64, 0], [191, 143, 48, 0], [64, 48, 16, 0], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match="8 or more"):
        TASKS.bind("digits", size=4)()


def test_digits_have_the_promised_splits() -> None:
    task = TASKS.bind("digits")().opened()
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [1077, 360, 360]
    x_BCHW = torch.cat([x for x, _ in task.batches("train", batch_size=500)])
    assert abs(float(x_BCHW.mean())) < 0.02
    assert abs(float(x_BCHW.std()) - 1) < 0.02
