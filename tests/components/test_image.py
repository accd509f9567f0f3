"""The image's recipe as it is written, and the image in what is compiled; `make test-containers` builds and runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "components/image/Dockerfile").read_text()
#: Instructions: comments left out, continued lines joined.
LINES = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", RECIPE, flags=re.MULTILINE)).splitlines()
DIGEST = "registry.example/secateur@sha256:" + "0" * 64


def stages() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in LINES:
        if line.startswith("FROM "):
            lines = found.setdefault(line.split(" AS ")[1], [])
        elif found and line.strip():
            lines.append(line.strip())
    return found


def test_the_last_stage_installs_nothing_and_has_a_user_with_a_number():
    name, last = list(stages().items())[-1]
    assert name == "final"
    assert [line for line in last if line.startswith("USER")] == ["USER ${UID}:${UID}"]
    assert "ARG UID=1000" in last
    runs = [line for line in last if line.startswith("RUN")]
    assert len(runs) == 1
    assert not re.search(r"\b(apt-get|pip|uv|curl|wget)\b", runs[0])
    assert not [line for line in last if line.startswith(("HEALTHCHECK", "ADD"))]
    assert "ENTRYPOINT []" in last


def test_every_stage_starts_from_the_given_base():
    bases = [line.split()[1] for line in LINES if line.startswith("FROM")]
    assert set(bases) == {"${BASE}", "tools", "environment", "scratch"}
    assert "ARG BASE=python:3.11-slim-bookworm" in LINES


def test_installing_wants_hashes_and_the_locks_have_them():
    installs = [line for lines in stages().values() for line in lines if "pip install" in line]
    assert len(installs) == 3
    assert [("--require-hashes" in line) or ("--no-deps" in line and "--offline" in line) for line in installs] == [
        1
    ] * 3
    for name in ("requirements.lock", "requirements-image.lock"):
        pinned = re.findall(r"^[a-z0-9_.-]+==\S+.*\\\n +--hash=sha256:", (ROOT / name).read_text(), re.MULTILINE)
        assert len(pinned) == len(re.findall("^[a-z0-9_.-]+==", (ROOT / name).read_text(), re.MULTILINE)) > 0


def test_the_image_is_built_with_the_uv_that_make_uses():
    wanted = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
    assert f"\nuv=={wanted} " in (ROOT / "requirements-image.lock").read_text()


def test_no_file_of_the_image_names_an_index():
    texts = [
        RECIPE,
        (ROOT / ".dockerignore").read_text(),
        *(p.read_text() for p in (ROOT / "tests/containers").glob("*.py")),
    ]
    names = ("py" + "pi", "python" + "hosted", "index-" + "url")
    assert [name for name in names for text in texts if name in text.lower()] == []


def test_only_what_is_copied_enters_the_build():
    ignore = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignore
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = [word for line in LINES if line.startswith("COPY") and "--from" not in line for word in line.split()[1:-1]]
    known = {"${LOCK}": "requirements.lock", "requirements-image.lock": "requirements-*.lock"}
    assert {known.get(word, word) for word in copied} == allowed


@pytest.mark.slow
def test_what_is_compiled_names_the_image_by_the_digest_that_was_given(tmp_path):
    path = tmp_path / "compress.yaml"
    command = [sys.executable, "-m", "pipelines.compile", "--output", str(path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "SECATEUR_IMAGE": DIGEST}, check=True)
    spec, _ = yaml.safe_load_all(path.read_text())
    assert spec["root"]["inputDefinitions"]["parameters"]["image"]["defaultValue"] == DIGEST
    executors = spec["deploymentSpec"]["executors"]
    assert len(executors) > 10
    images = {one["container"]["image"] for one in executors.values()}
    assert images == {"{{$.inputs.parameters['pipelinechannel--image']}}"}


@pytest.mark.slow
def test_a_local_run_names_the_image_by_the_digest_too():
    code = (
        "from pipelines.compile import representation; from pipelines.placement import LOCAL\n"
        "print(representation('compress', LOCAL))"
    )
    environment = {**os.environ, "SECATEUR_IMAGE": DIGEST}
    command = [sys.executable, "-c", code]
    text = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    (spec,) = yaml.safe_load_all(text)
    assert {one["container"]["image"] for one in spec["deploymentSpec"]["executors"].values()} == {DIGEST}
