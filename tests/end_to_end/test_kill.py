"""kill -9 in the middle of every stage, then the same command again: same result, nothing finished is redone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compress import catalogue
from compress.core.stage import Ref
from compress.run import run_stage, task_of
from compress.store import LocalStore

catalogue.load()

SECATEUR = Path(sys.executable).parent / "secateur"
DIGITS = json.dumps({"name": "digits", "limit": 256})
NET = {"name": "resnet_cifar", "depth": 8, "width": 8}
FIT = {"epochs": 3, "batch_size": 32, "seed": 1}

#: stage, parents by role, needs the task, configuration
CHAIN = (
    ("train", {}, {"builder": NET, **FIT}),
    ("sensitivity", {"model": "train"}, {"ratios": [0.5, 0.25]}),
    ("search", {"model": "train"}, {"budget": "macs=0.7", "num_trials": 6}),
    ("prune", {"model": "search", "reference": "train"}, {"budget": "macs=0.5", **FIT}),
    ("distill", {"model": "prune", "teacher": "train"}, FIT),
    ("finetune_quant", {"model": "distill", "teacher": "train"}, FIT),
    ("export", {"model": "finetune_quant"}, {}),
    ("cascade", {"model": "finetune_quant", "teacher": "train"}, {}),
    ("evaluate", {"model": "export", "teacher": "train", "cascade": "cascade"}, {"rounds": 10}),
    ("gate", {"evaluation": "evaluate"}, {}),
)
STAGES = [stage for stage, _, _ in CHAIN]


def command(store, stage, refs):
    _, parents, config = next(row for row in CHAIN if row[0] == stage)
    roles = [f"--{role.replace('_', '-')}={refs[parent]}" for role, parent in parents.items()]
    task = [f"--task={DIGITS}"] if stage != "gate" else []
    return [SECATEUR, "run", stage, *roles, *task, f"--config={json.dumps(config)}", f"--store={store}", "--no-latency"]


def run(store, stage, refs):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command(store, stage, refs), "--json"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def kill_in_the_middle(store, stage, refs):
    """Start the stage, wait until it works in its scratch folder, kill it; say whether it was unfinished."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(store, stage, refs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any((store / "scratch").glob(f"{stage}-*")):
            break
        time.sleep(0.002)
    until = time.monotonic() + (0.0 if stage == "gate" else 30.0)
    while process.poll() is None and time.monotonic() < until:
        if any(path.is_file() for path in (store / "scratch").rglob("*")):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return not any((store / "entries").glob(f"{stage}-*"))


#: What a clock decides: latencies, and which INT8 file they chose.
TIMED = ("latency", "seconds", "speedup", "ratio", "int8", "checks", "reasons", "passed")


def content(store, ref):
    """Everything in an entry that does not depend on a clock: model files, numbers, predictions."""
    folder = store / "entries" / ref
    record = json.loads((folder / "entry.json").read_text())
    files = record["files"].items()
    found = {name: facts["sha256"] for name, facts in files if name.endswith((".safetensors", "/model.onnx"))}
    found |= untimed(record["report"])
    for path in folder.rglob("predictions.npz"):
        with np.load(path) as arrays:
            found |= {key: arrays[key].tolist() for key in arrays.files if "int8" not in key}
    return found


def untimed(report, prefix=""):
    """The numbers of a report, without those that a clock decides."""
    found = {}
    for key, value in report.items():
        if any(word in key for word in TIMED):
            continue
        if isinstance(value, dict):
            found |= untimed(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = value
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Every stage once, one process for all."""
    root = tmp_path_factory.mktemp("undisturbed") / "store"
    store, refs = LocalStore(root), {}
    for stage, roles, config in CHAIN:
        parents = {role: Ref(refs[parent]) for role, parent in roles.items()}
        task = None if stage == "gate" else task_of(json.loads(DIGITS))
        refs[stage] = str(run_stage(stage, config, parents, task, store).entry.ref)
    return root, refs


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_ends_in_the_same_result(undisturbed, tmp_path, stage):
    source, refs = undisturbed
    store = tmp_path / "store"
    shutil.copytree(source, store)
    shutil.rmtree(store / "scratch", ignore_errors=True)
    shutil.rmtree(store / "entries" / refs[stage])
    before = {path.parent.name: path.stat().st_mtime_ns for path in (store / "entries").glob("*/entry.json")}
    assert kill_in_the_middle(store, stage, refs), f"{stage} finished before it could be killed"
    again = run(store, stage, refs)
    assert again["ref"] == refs[stage]
    assert not again["is_reused"]
    expected = content(source, refs[stage])
    assert content(store, refs[stage]) == expected
    assert expected or stage == "gate"
    after = {path.parent.name: path.stat().st_mtime_ns for path in (store / "entries").glob("*/entry.json")}
    assert {name: after[name] for name in before} == before
