"""Tensors go back into networks whose layers have versions."""

import pytest
import torch
from torch import nn

from compress.core.weights import load_tensors


class Versioned(nn.Linear):
    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") != 2:
            raise ValueError(f"version {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_layers_see_their_version():
    source, target = (nn.Sequential(Versioned(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    tensors = {name: value.clone() for name, value in source.state_dict().items()}
    with pytest.raises(ValueError, match="version None"):
        target.load_state_dict(tensors)
    load_tensors(target, tensors)
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in tensors.items())


def test_other_names_are_refused():
    with pytest.raises(RuntimeError, match="Missing key"):
        load_tensors(nn.Linear(2, 3), {"weight": torch.zeros(3, 2)})
