"""CIFAR-10 and CIFAR-100, from archives of picture strips or from the published files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compress.core.registry import Piece
from compress.core.task import TASKS, InputSpec, Task
from compress.data.augment import augmentation
from compress.data.cache import decoded
from compress.data.cifar_files import SIDE, python_batch, records, strips
from compress.data.digest import files_digest
from compress.data.pictures import Pictures, SplitRule, picture_task
from compress.data.source import Found, Layout, locate

PARTS = ("train", "test")
ARRAYS = tuple(f"{part}_{what}" for part in PARTS for what in ("images", "labels"))

NAMES_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FINE_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
NAMES_100 = tuple(FINE_NAMES.split())


@dataclass(frozen=True, kw_only=True)
class Edition:
    """What differs between the two data sets' files."""

    layouts: tuple[Layout, ...]
    num_labels: int
    label_key: bytes


CIFAR_10 = Edition(
    layouts=(
        Layout(folder="", files={"all": "cifar10.npz"}, kind="strips"),
        *(
            Layout(
                folder=folder,
                files={f"train{i}": f"data_batch_{i}{end}" for i in range(1, 6)} | {"test": f"test_batch{end}"},
                kind=kind,
            )
            for folder, end, kind in (("cifar-10-batches-bin", ".bin", "binary"), ("cifar-10-batches-py", "", "python"))
        ),
    ),
    num_labels=1,
    label_key=b"labels",
)
CIFAR_100 = Edition(
    layouts=(
        Layout(folder="", files={"all": "cifar100.npz"}, kind="strips"),
        Layout(folder="cifar-100-binary", files={"train": "train.bin", "test": "test.bin"}, kind="binary"),
        Layout(folder="cifar-100-python", files={"train": "train", "test": "test"}, kind="python"),
    ),
    num_labels=2,
    label_key=b"fine_labels",
)


@TASKS.register("cifar10", paper="Krizhevsky 2009")
def cifar10(
    *,
    root: str = "",
    validation: int = 5000,
    split_seed: int = 0,
    limit: int = 0,
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
    std: tuple[float, float, float] = (0.229, 0.224, 0.225),
) -> Task:
    """Photographs in 10 classes, colour 32 x 32, 60,000 pictures.

    Args:
        root: Folder or address that holds `cifar10.npz`, `cifar-10-batches-bin/` or `cifar-10-batches-py/`
            (torchvision's); "" searches SECATEUR_DATA, ./data, ../shared/data.
        validation: Number of pictures held out of the 50,000 for training.
        split_seed: Chooses them.
        limit: Train on at most so many pictures; 0 for all.
        mean: Per channel, of pictures scaled to 0..1. The default is what the pretrained ResNets were
            trained with (ImageNet's); CIFAR-10's own is (0.4914, 0.4822, 0.4465).
        std: Likewise; CIFAR-10's own is (0.2470, 0.2435, 0.2616).

    Returns:
        Task of 3 x 32 x 32 inputs in splits of 45,000, 5,000 and 10,000. Training pictures are mirrored and
        shifted by at most 4 pixels.
    """
    spec = InputSpec(shape=(3, SIDE, SIDE), mean=mean, std=std, class_names=NAMES_10)
    rule = SplitRule(validation=validation, split_seed=split_seed, limit=limit)
    piece = TASKS.bind(
        "cifar10", root=root, validation=validation, split_seed=split_seed, limit=limit, mean=mean, std=std
    )
    return _task(piece, spec, rule, CIFAR_10, root)


@TASKS.register("cifar100", paper="Krizhevsky 2009")
def cifar100(
    *,
    root: str = "",
    validation: int = 5000,
    split_seed: int = 0,
    limit: int = 0,
    mean: tuple[float, float, float] = (0.5071, 0.4865, 0.4409),
    std: tuple[float, float, float] = (0.2673, 0.2564, 0.2762),
) -> Task:
    """Photographs in 100 fine classes, colour 32 x 32, 60,000 pictures.

    Args:
        root: Folder or address that holds `cifar100.npz`, `cifar-100-binary/` or `cifar-100-python/`
            (torchvision's); "" searches SECATEUR_DATA, ./data, ../shared/data.
        validation: Number of pictures held out of the 50,000 for training.
        split_seed: Chooses them.
        limit: Train on at most so many pictures; 0 for all.
        mean: Per channel, of pictures scaled to 0..1; CIFAR-100's own.
        std: Likewise.

    Returns:
        Task of 3 x 32 x 32 inputs in splits of 45,000, 5,000 and 10,000. Training pictures are mirrored and
        shifted by at most 4 pixels.
    """
    spec = InputSpec(shape=(3, SIDE, SIDE), mean=mean, std=std, class_names=NAMES_100)
    rule = SplitRule(validation=validation, split_seed=split_seed, limit=limit)
    piece = TASKS.bind(
        "cifar100", root=root, validation=validation, split_seed=split_seed, limit=limit, mean=mean, std=std
    )
    return _task(piece, spec, rule, CIFAR_100, root)


def _task(piece: Piece[Any], spec: InputSpec, rule: SplitRule, edition: Edition, root: str) -> Task:
    found = locate(
        piece.name,
        root,
        edition.layouts,
        how_to_get=f"Put {edition.layouts[0].files['all']} there, unpack the binary version from the data set's page "
        f"(www.cs.toronto.edu/~kriz/cifar.html) into {edition.layouts[1].folder}/, let torchvision download it, or "
        f"point SECATEUR_DATA or root= at the folder that holds one of these.",
    )
    digest = files_digest({path.name: path for path in found.files.values()})

    def load() -> Mapping[str, Pictures]:
        read = decoded(piece.name, digest, lambda: _arrays(found, edition), names=ARRAYS)
        return {part: Pictures(read[f"{part}_images"], read[f"{part}_labels"]) for part in PARTS}

    augment = augmentation(padding=4, has_flip=True)
    return picture_task(piece, spec=spec, rule=rule, source_digest=digest, load=load, augment=augment)


def _arrays(found: Found, edition: Edition) -> dict[str, np.ndarray]:
    """Decode everything: "train_images" (N, 3, 32, 32), "train_labels" (N,), and the same for test."""
    arrays: dict[str, np.ndarray] = {}
    for part in PARTS:
        if found.layout.kind == "strips":
            with np.load(found.files["all"], allow_pickle=False) as archive:
                images, labels = strips(archive, part)
        else:
            paths = [path for role, path in found.files.items() if role.startswith(part)]
            is_binary = found.layout.kind == "binary"
            batches = [
                records(path, num_labels=edition.num_labels)
                if is_binary
                else python_batch(path, label_key=edition.label_key)
                for path in paths
            ]
            images, labels = (np.concatenate(column) for column in zip(*batches, strict=True))
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    return arrays
