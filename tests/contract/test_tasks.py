"""What every task of the family promises, over tiny data in the layouts of the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compress.data.arrays
import compress.data.cifar
import compress.data.digits
import compress.data.idx
import compress.data.image_folder
from compress.core.random import generator
from compress.core.task import SPLITS, TASKS, Task
from tests.compress.data.tiny_sets import MAKERS

NAMES = [name for name in sorted(TASKS) if TASKS[name].function.__module__.startswith("compress.data")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the cache at a temporary folder and the search for data at nothing."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    work = tmp_path / "work" / "here"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)


def made(name: str, root: Path, **more: object) -> Task:
    return TASKS.bind(name, **{**MAKERS[name](root), **more})()


def again(task: Task) -> Task:
    return TASKS.from_json(task.piece.as_json())()


def pictures(task: Task, split: str) -> torch.Tensor:
    part = task.opened().split(split)
    return part.images(torch.arange(len(part)))


def test_every_task_has_tiny_data() -> None:
    assert set(NAMES) == set(MAKERS)


@pytest.mark.parametrize("name", NAMES)
def test_batches_fit_the_input(name: str, tmp_path: Path) -> None:
    task = made(name, tmp_path / "root").opened()
    for split in SPLITS:
        x_BCHW, y_B = next(task.batches(split, batch_size=3))
        assert x_BCHW.dtype == torch.float32
        assert x_BCHW.shape == (3, *task.input.shape)
        assert y_B.dtype == torch.int64
        assert set(y_B.tolist()) <= set(range(task.input.num_classes))
        pixels = torch.tensor(task.input.std).view(-1, 1, 1) * x_BCHW + torch.tensor(task.input.mean).view(-1, 1, 1)
        assert pixels.clamp(-1e-6, 1 + 1e-6).equal(pixels)
        assert task.split(split).images(torch.tensor([0])).dtype == torch.uint8


@pytest.mark.parametrize("name", NAMES)
def test_test_split_is_sealed(name: str, tmp_path: Path) -> None:
    task = made(name, tmp_path / "root")
    with pytest.raises(RuntimeError, match="evaluate"):
        task.split("test")


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_the_same_twice_and_disjoint(name: str, tmp_path: Path) -> None:
    task = made(name, tmp_path / "root")
    twin = again(task)
    assert task.digest == twin.digest
    assert task.identity() == twin.identity()
    seen: list[bytes] = []
    for split in SPLITS:
        first, second = pictures(task, split), pictures(twin, split)
        assert torch.equal(first, second)
        assert torch.equal(task.opened().split(split).labels_B, twin.opened().split(split).labels_B)
        seen += [row.numpy().tobytes() for row in first]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("name", NAMES)
def test_split_seed_moves_validation_and_not_test(name: str, tmp_path: Path) -> None:
    task = made(name, tmp_path / "root")
    other = TASKS.from_json({**task.piece.as_json(), "split_seed": 1})()
    assert task.digest != other.digest
    assert not torch.equal(pictures(task, "validation"), pictures(other, "validation"))
    assert torch.equal(pictures(task, "test"), pictures(other, "test"))


@pytest.mark.parametrize("name", NAMES)
def test_limit_keeps_a_part_of_train_alone(name: str, tmp_path: Path) -> None:
    task = made(name, tmp_path / "root")
    small = TASKS.from_json({**task.piece.as_json(), "limit": 12})()
    assert len(small.split("train")) == 12
    assert torch.equal(pictures(task, "validation"), pictures(small, "validation"))
    whole = {row.numpy().tobytes() for row in pictures(task, "train")}
    assert {row.numpy().tobytes() for row in pictures(small, "train")} < whole


@pytest.mark.parametrize("name", NAMES)
def test_shuffled_batches_depend_on_the_generator_alone(name: str, tmp_path: Path) -> None:
    task = made(name, tmp_path / "root")
    first, second, third = (
        torch.cat([x_BCHW for x_BCHW, _ in task.batches("train", batch_size=16, shuffle=generator(seed))])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_missing_data_names_the_place(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        TASKS.bind(name, root=str(tmp_path / "nowhere"))()


@pytest.mark.parametrize("name", NAMES)
def test_making_a_task_decodes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import PIL.Image

    options = MAKERS[name](tmp_path / "root")
    for target in (PIL.Image, compress.data.idx.gzip):
        monkeypatch.setattr(target, "open", None)
    for module, function in (("idx", "idx_array"), ("cifar", "_arrays"), ("arrays", "_load"), ("digits", "_load")):
        monkeypatch.setattr(getattr(compress.data, module), function, None)
    assert TASKS.bind(name, **options)().digest


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ["validation", "limit"])
def test_numbers_of_pictures_are_checked(name: str, option: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=option):
        made(name, tmp_path / "root", **{option: -1})
    task = TASKS.bind(name, **{**MAKERS[name](tmp_path / "second"), option: 100_000})()
    with pytest.raises(ValueError, match="lower"):
        task.split("train")


@pytest.mark.parametrize("name", NAMES)
def test_changed_data_has_another_digest(name: str, tmp_path: Path) -> None:
    if name == "digits":
        assert made(name, tmp_path).digest != made(name, tmp_path, size=20).digest
        return
    task = made(name, tmp_path / "root")
    file = next(path for path in sorted((tmp_path / "root").rglob("*.*")) if path.is_file())
    if name == "arrays":
        from tests.compress.data.tiny_sets import write_arrays

        write_arrays(file, channels=1)
    else:
        file.write_bytes(file.read_bytes() + b"\0")
    assert again(task).digest != task.digest
