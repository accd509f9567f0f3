import builtins
import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.train import checkpoint


def test_reads_what_it_wrote(tmp_path):
    tensors = {"a.b": torch.arange(3), "scalar": torch.tensor(0.1)}
    checkpoint.write(tmp_path / "new" / "c.safetensors", tensors, {"epoch": 3, "rate": 0.1})
    found, facts = checkpoint.read(tmp_path / "new" / "c.safetensors")
    assert facts == {"epoch": 3, "rate": 0.1}
    assert torch.equal(found["a.b"], tensors["a.b"])
    assert float(found["scalar"]) == float(tensors["scalar"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.safetensors"]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.read(tmp_path / "c.safetensors") is None


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, {"a": torch.zeros(1)}, {"epoch": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, {"a": torch.ones(1)}, {"epoch": 2})
    assert checkpoint.read(path)[1] == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_half_written_draft_is_not_read(tmp_path):
    path = tmp_path / "c.safetensors"
    (tmp_path / ".c.safetensors.draft").write_bytes(b"half")
    assert checkpoint.read(path) is None
    checkpoint.write(path, {"a": torch.zeros(1)}, {})
    assert list(tmp_path.iterdir()) == [path]


def test_prefixes_come_off_again():
    tensors = {"weight": torch.zeros(1)}
    assert checkpoint.below("module", checkpoint.under("module", tensors)).keys() == tensors.keys()
    assert checkpoint.below("mod", checkpoint.under("module", tensors)) == {}


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, betas=(0.8, 0.9))]
)
def test_an_optimizer_goes_on_as_if_never_stored(make):
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    x_BC = torch.randn(8, 3)

    def step(layer, optimizer):
        optimizer.zero_grad()
        layer(x_BC).square().mean().backward()
        optimizer.step()

    optimizer = make(first.parameters())
    for _ in range(3):
        step(first, optimizer)
    second.load_state_dict(first.state_dict())
    other = make(second.parameters())
    tensors, facts = checkpoint.optimizer_parts(optimizer)
    checkpoint.load_optimizer(other, {name: value.clone() for name, value in tensors.items()}, facts)
    for _ in range(2):
        step(first, optimizer)
        step(second, other)
    assert torch.equal(first.weight, second.weight)


def test_scalars_of_an_optimizer_survive():
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    optimizer.state[layer.weight] = {"momentum_buffer": None, "count": 3}
    tensors, facts = checkpoint.optimizer_parts(optimizer)
    other = torch.optim.SGD(layer.parameters(), lr=0.5)
    checkpoint.load_optimizer(other, tensors, facts)
    assert other.state[layer.weight] == {"momentum_buffer": None, "count": 3}
    assert other.param_groups[0]["lr"] == 0.1


def test_digest_sees_values_and_names():
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    assert checkpoint.state_digest(first) != checkpoint.state_digest(second)
    second.load_state_dict(first.state_dict())
    assert checkpoint.state_digest(first) == checkpoint.state_digest(second)
    assert checkpoint.state_digest(first) != checkpoint.state_digest(nn.Sequential(first))


def test_reading_unpickles_nothing(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, {"a": torch.zeros(1)}, {})
    assert b"pickle" not in Path(path).read_bytes()
    assert builtins.open is open
