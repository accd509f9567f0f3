"""The README's commands are commands, and its examples run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent


def blocks(language, heading):
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


def test_every_make_target_exists():
    targets = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", README, flags=re.MULTILINE))
    targets = {first or second for first, second in targets}
    assert {"demo", "test", "check", "lock"} <= targets
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert targets <= known


def test_every_path_exists():
    links = re.findall(r"\]\(([^)#][^)]*)\)", README)
    names = re.findall(r"`((?:docs|pipelines|compress|deploy)/[\w/.]+)`", README)
    assert links
    assert [name for name in {*links, *names} if not (ROOT / name).exists()] == []


@pytest.mark.slow
def test_every_option_of_the_pretrained_example_exists():
    for line in blocks("sh", "On real, pretrained weights")[0].strip().splitlines():
        stage = line.split()[2]
        text = subprocess.run([BIN / "secateur", "run", stage, "--help"], capture_output=True, text=True).stdout
        missing = [option for option in re.findall(r"--[\w-]+", line) if option not in text]
        assert missing == [], stage


@pytest.mark.slow
def test_the_examples_run(tmp_path):
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    shell, python = blocks("sh", "One stage at a time")[0], blocks("python", "One stage at a time")[0]
    done = subprocess.run(["bash", "-euc", shell], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "accuracy_tuned" in done.stdout
    assert "files/model.onnx" in done.stdout
    printed = done.stdout
    done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    ref, accuracy_cut = done.stdout.split()
    assert ref in printed, "the example in Python gives the entry of the one in the shell"
    assert 0 < float(accuracy_cut) <= 1
