"""Two real CPU processes train what one trains."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import compress.models  # noqa: F401  (registers the builders)
from compress.core.model import Model
from compress.train.processes import Processes, _WholeBatchNorm

ROOT = Path(__file__).parents[3]
#: Largest difference of a weight after a short fit; measured: 4e-7.
TOLERANCE = 1e-4

FIT = """
import os, sys, time
from pathlib import Path
from safetensors.torch import save_file
from compress.train import fit as fit_module
from compress.train.fit import FitConfig, fit
from compress.train.processes import join, leave
from tests.toys import toy_model, toy_task

fit_module.CHECK_EVERY, fit_module.SAVE_INTERVAL_S = 2, 0.0
task, processes, folder = toy_task(), join(), Path(sys.argv[1])
(folder / f"{processes.rank}.pid").write_text(str(os.getpid()))

taken = []

def loss(module, x_BCHW, y_B):
    taken.append(len(x_BCHW))
    time.sleep(float(sys.argv[2]))
    return task.loss(module(x_BCHW), y_B)

module = toy_model().module
config = FitConfig(epochs=4, batch_size=16, ema_decay=0.9, clip_norm=1.0, recipe="adamw_one_cycle")
report = fit(module, task, config, scratch=folder, what="train", loss=loss)
save_file(module.state_dict(), folder / f"{processes.rank}.safetensors")
assert report.num_steps == 24
print(len(taken), flush=True)
leave()
"""


#: The second process answers late: once when only the first one's word is waited for, once in a step of training.
LATE = """
import time
from datetime import timedelta
import torch
from compress.train import processes

processes.PEERS = timedelta(seconds=2)
mine = processes.join()
assert mine.first_says(lambda: time.sleep(5) or 7.0) == 7.0
print("word", flush=True)
if mine.is_first:
    time.sleep(20)
mine.average([], torch.zeros(()))
print("step", flush=True)
"""


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}


def command(num_processes):
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    return [sys.executable, *(torchrun if num_processes > 1 else [])]


def start(num_processes, folder, pause_s=0.0):
    folder.mkdir(exist_ok=True)
    script = folder / "fit.py"
    script.write_text(FIT)
    return subprocess.Popen(
        [*command(num_processes), str(script), str(folder), str(pause_s)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return output


def weights(folder, rank=0):
    from safetensors.torch import load_file

    return load_file(folder / f"{rank}.safetensors")


def difference(first, second):
    assert set(first) == set(second)
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)


@pytest.mark.slow
def test_two_processes_end_like_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    both = start(2, two)
    finish(start(1, one))
    assert finish(both).split() == ["24", "24"]
    assert difference(weights(two, 0), weights(two, 1)) == 0
    found = difference(weights(one), weights(two))
    assert found <= TOLERANCE
    print(f"largest difference of a weight, one process against two: {found:.1e}")


@pytest.mark.slow
def test_a_fit_of_two_goes_on_after_a_kill_in_two_or_in_one(tmp_path):
    one, killed, alone = (tmp_path / name for name in ("one", "killed", "alone"))
    undisturbed = start(1, one)
    victim = start(2, killed, pause_s=0.3)
    deadline = time.monotonic() + 120
    while not list(killed.glob("fit-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(killed.glob("fit-*.safetensors")), "a checkpoint to go on from"
    os.kill(int((killed / "1.pid").read_text()), signal.SIGKILL)
    victim.communicate(timeout=120)
    assert victim.returncode != 0
    assert not (killed / "0.safetensors").exists()
    shutil.copytree(killed, alone)
    both = start(2, killed)
    counts = [*finish(start(1, alone)).split(), *finish(both).split()]
    assert len(counts) == 3
    assert all(0 < int(steps) < 24 for steps in counts), "steps before the checkpoint are not taken again"
    assert finish(undisturbed).split() == ["24"]
    for folder in (killed, alone):
        assert difference(weights(folder), weights(one)) <= TOLERANCE


def run_train(store, num_processes, *launcher):
    options = ["--task", "digits", "--builder", '{"name": "resnet_cifar", "depth": 8, "width": 4}']
    options += ["--max-steps", "12", "--batch-size", "32", "--store", str(store), "--save-as", "small", "--json"]
    more = ["--processes", str(num_processes)] if num_processes > 1 and not launcher else []
    return subprocess.run(
        [*(launcher or [sys.executable]), "-m", "compress.cli", "run", "train", *options, *more],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_command_makes_one_entry_of_the_same_name(tmp_path):
    records = {}
    for count in (1, 2):
        done = run_train(tmp_path / str(count), count)
        assert done.returncode == 0, done.stderr[-3000:]
        records[count] = json.loads(done.stdout)
        entries = [path.name for path in (tmp_path / str(count) / "entries").iterdir()]
        assert entries == [records[count]["ref"]]
        assert not list((tmp_path / str(count) / "scratch").iterdir())
    assert records[1]["ref"] == records[2]["ref"]
    models = [Model.load(tmp_path / str(k) / "entries" / records[k]["ref"] / "model") for k in (1, 2)]
    assert difference(*(model.module.state_dict() for model in models)) <= TOLERANCE
    again = run_train(tmp_path / "2", 2, *command(2))
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads(again.stdout)["is_reused"] is True


@pytest.mark.slow
def test_the_first_ones_word_may_take_long_a_step_may_not(tmp_path):
    """A process that hangs must not keep the others, and what they pay for, for a day."""
    script = tmp_path / "late.py"
    script.write_text(LATE)
    started = time.monotonic()
    done = subprocess.run(
        [*command(2), str(script)], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["word", "word"], done.stderr[-3000:]
    assert done.returncode != 0
    assert "Timed out" in done.stderr or "timed out" in done.stderr
    assert time.monotonic() - started < 120


def test_other_stages_say_that_they_run_alone(monkeypatch):
    from compress.run import run_stage
    from compress.store import LocalStore

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"'search' runs in one process, WORLD_SIZE is 2.*can run: train"):
        run_stage("search", "{}", {"model": "x"}, None, LocalStore("unused"))


def test_shares_are_the_batch():
    batch = torch.arange(12)
    shares = [Processes(rank, 3).share(batch) for rank in range(3)]
    assert torch.equal(torch.cat(shares), batch)
    assert {len(share) for share in shares} == {4}
    with pytest.raises(ValueError, match=r"batch of 16 inputs cannot be shared by 3 processes.*multiple of 3"):
        Processes(0, 3).check_batch(16)


@pytest.fixture
def group(tmp_path):
    """This process as a group of one, so that what is exchanged can be computed by hand."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_whole_batch_norm_is_batch_norm(group, momentum):
    torch.manual_seed(0)
    nets = [nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)]
    inputs = [torch.linspace(-3, 5, 120).view(5, 3, 4, 2).requires_grad_() for _ in nets]
    for step in range(2):
        plain = nets[0](inputs[0] + step)
        with _WholeBatchNorm():
            shared = nets[1](inputs[1] + step)
        for y in (plain, shared):
            y.square().mul(torch.arange(2.0)).sum().backward()
        torch.testing.assert_close(shared, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-4)
    for name, value in nets[0].state_dict().items():
        torch.testing.assert_close(nets[1].state_dict()[name], value, rtol=1e-5, atol=1e-5)
    nets[0].eval()
    nets[1].eval()
    with _WholeBatchNorm():
        torch.testing.assert_close(nets[1](inputs[0]), nets[0](inputs[0]), rtol=1e-5, atol=1e-5)
