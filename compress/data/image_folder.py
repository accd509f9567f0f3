"""A user's own pictures in folders: one folder a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compress.core.progress import track
from compress.core.random import generator
from compress.core.task import TASKS, InputSpec, Task
from compress.data.augment import augmentation
from compress.data.cache import decoded
from compress.data.digest import files_digest
from compress.data.pictures import PictureRows, Pictures, SplitRule, picture_task, stratified_order
from compress.data.source import required_root

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
#: Folder names of a split; the first one that exists is taken.
PART_FOLDERS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
#: Up to here all pictures are decoded once and kept; above, each batch is decoded when it is needed.
LARGEST_DECODED_BYTES = 4 << 30
#: Without a test folder, one picture in so many is put aside, the same ones for every split_seed.
TEST_DIVISOR = 5


@TASKS.register("image_folder")
def image_folder(
    *,
    root: str = "",
    size: int = 64,
    validation: int = 0,
    split_seed: int = 0,
    limit: int = 0,
    padding: int = 4,
    flip: bool = True,
    grey: bool = False,
) -> Task:
    """Pictures in folders, root/train|val|test/CLASS/picture.png, or root/CLASS/picture.png to be split.

    Args:
        root: The folder or its address. Without a `val` folder, validation pictures are taken out of those
            for training; without a `test` folder, first a fifth of the pictures becomes the test split.
        size: Height and width. Pictures are shrunk or enlarged until the shorter side fits, then the middle is cut out.
        validation: Number of pictures held out of training; 0 for a tenth. Not used with a `val` folder.
        split_seed: Chooses them.
        limit: Train on at most so many pictures; 0 for all.
        padding: Training pictures are shifted by at most so many pixels.
        flip: Whether training pictures are mirrored left and right.
        grey: One channel instead of three.

    Returns:
        Task of 3 x size x size inputs (or 1 x size x size), mean and deviation as for ImageNet; the classes
        are the folders of the training part in alphabetical order.
    """
    if size < 1:
        raise ValueError(f"image_folder size={size}: a height in pixels is 1 or more.")
    folder = required_root("image_folder", root, "pictures/")
    listed = _listed(folder)
    mean, std = ((0.449,), (0.226,)) if grey else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    spec = InputSpec(shape=(len(mean), size, size), mean=mean, std=std, class_names=listed.class_names)
    digest = files_digest({path.relative_to(folder).as_posix(): path for path in listed.paths})
    options = {"validation": validation, "split_seed": split_seed, "limit": limit, "padding": padding}
    return picture_task(
        TASKS.bind("image_folder", root=root, size=size, flip=flip, grey=grey, **options),
        spec=spec,
        rule=SplitRule(validation=validation, split_seed=split_seed, limit=limit),
        source_digest=digest,
        load=lambda: listed.load(spec, digest),
        augment=augmentation(padding=padding, has_flip=flip),
    )


@dataclass(frozen=True)
class Listed:
    """What lies in the folder, before any picture is opened.

    Attributes:
        class_names: Alphabetical.
        parts: Paths and class indices by "train", "validation", "test" — those that have a folder.
    """

    class_names: tuple[str, ...]
    parts: Mapping[str, Sequence[tuple[Path, int]]]

    @property
    def paths(self) -> list[Path]:
        """Every picture, part by part."""
        return [path for part in self.parts.values() for path, _ in part]

    def load(self, spec: InputSpec, digest: str) -> dict[str, Pictures]:
        """Return the pictures by part, decoded now or, when they are many, batch by batch."""
        lazy = {name: FileRows([path for path, _ in part], spec.shape) for name, part in self.parts.items()}
        labels = {name: np.asarray([label for _, label in part], np.int64) for name, part in self.parts.items()}
        if len(self.paths) * int(np.prod(spec.shape)) <= LARGEST_DECODED_BYTES:
            name = f"image_folder-{'x'.join(map(str, spec.shape))}"
            images = decoded(name, digest, lambda: {part: rows.all() for part, rows in lazy.items()}, names=tuple(lazy))
            parts = {part: Pictures(images[part], labels[part]) for part in lazy}
        else:
            parts = {part: Pictures(rows, labels[part]) for part, rows in lazy.items()}
        return parts if "test" in parts else _test_put_aside(parts)


@dataclass(frozen=True)
class FileRows:
    """Pictures that are decoded when their rows are asked for.

    Attributes:
        paths: One a row.
        shape: (channels, height, width) of every picture.
    """

    paths: Sequence[Path]
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([picture(self.paths[row], self.shape) for row in rows])

    def all(self) -> np.ndarray:
        """Return every picture, (N, C, H, W)."""
        images = np.empty((len(self), *self.shape), np.uint8)
        for row, path in enumerate(track(self.paths, total=len(self), what="decoding pictures")):
            images[row] = picture(path, self.shape)
        return images


@dataclass(frozen=True)
class ChosenRows:
    """Some rows of other rows."""

    base: PictureRows
    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.base[self.chosen[rows]]


def picture(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Return one file as uint8 (C, H, W): the shorter side resized, the middle cut out.

    Raises:
        ValueError: The file cannot be decoded.
    """
    from PIL import Image, ImageOps

    channels, height, width = shape
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
            fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be decoded ({error}): repair or remove it.") from error
    return np.asarray(fitted, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _listed(folder: Path) -> Listed:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: image_folder needs one; an .npz file is read by the task `arrays`.")
    found = {
        part: next((folder / name for name in names if (folder / name).is_dir()), None)
        for part, names in PART_FOLDERS.items()
    }
    folders = {part: path for part, path in found.items() if path} if found["train"] else {"train": folder}
    names = tuple(sorted(path.name for path in folders["train"].iterdir() if path.is_dir() and path.name[0] != "."))
    if len(names) < 2:
        raise ValueError(
            f"{folders['train']} has {len(names)} folders of classes, two are needed: "
            f"store root/train/CLASS/picture.png or root/CLASS/picture.png."
        )
    parts = {part: _part(path, names) for part, path in folders.items()}
    return Listed(names, parts)


def _part(folder: Path, class_names: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Return paths and class indices of one part, in an order that every file system gives."""
    here = {path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."}
    if unknown := sorted(here - set(class_names)):
        raise ValueError(f"{folder} has classes that training does not have: {', '.join(unknown)}.")
    rows = [
        (path, label)
        for label, name in enumerate(class_names)
        for path in sorted((folder / name).rglob("*"), key=lambda path: path.relative_to(folder).as_posix())
        if path.suffix.lower() in ENDINGS
    ]
    if not rows:
        raise ValueError(f"{folder} holds no picture ({', '.join(sorted(ENDINGS))}).")
    return rows


def _test_put_aside(parts: Mapping[str, Pictures]) -> dict[str, Pictures]:
    """Take a fifth of the training pictures as test part; the choice never depends on options."""
    train = parts["train"]
    order = stratified_order(torch.from_numpy(train.labels), generator(0, "image_folder", "test")).numpy()
    num_test = max(1, len(order) // TEST_DIVISOR)
    test, rest = np.sort(order[:num_test]), np.sort(order[num_test:])
    taken = {
        name: Pictures(ChosenRows(train.images, rows), train.labels[rows])
        for name, rows in (("train", rest), ("test", test))
    }
    return {**parts, **taken}
