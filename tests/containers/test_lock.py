"""The image's lock brings what the shipped features import."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: TensorRT comes with the GPU's base image; the others are for people who work on the project.
NOT_IN_THE_IMAGE = {"tensorrt", "docs", "build", "dev", "all"}


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_every_extra_of_a_feature_is_in_the_images_lock() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {name_of(line) for line in lines if re.match(r"[a-z]", line)}
    for extra in set(extras) - NOT_IN_THE_IMAGE:
        assert {name_of(one) for one in extras[extra]} <= locked, f"{extra}: run `make lock`"
    (whole,) = extras["all"]
    assert set(whole.partition("[")[2].rstrip("]").split(",")) == set(extras) - NOT_IN_THE_IMAGE
