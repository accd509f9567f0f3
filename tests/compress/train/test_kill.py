"""A fit that is killed for real."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SCRIPT = """
import sys, time
from pathlib import Path
from compress.train.checkpoint import state_digest
from compress.train.fit import FitConfig, fit
from tests.toys import toy_model, toy_task

task = toy_task()

def slow(module, x_BCHW, y_B):
    time.sleep(float(sys.argv[2]))
    return task.loss(module(x_BCHW), y_B)

module = toy_model().module
config = FitConfig(epochs=8, batch_size=16, ema_decay=0.9, recipe="adamw_one_cycle")
fit(module, task, config, scratch=Path(sys.argv[1]), what="train", loss=slow)
print(state_digest(module))
"""


def start(scratch, pause_s):
    command = [sys.executable, "-c", SCRIPT, str(scratch), str(pause_s)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow
def test_kill_9_and_start_again_give_the_same_weights(tmp_path):
    undisturbed = start(tmp_path / "whole", 0.0)
    victim = start(tmp_path / "killed", 0.05)
    for _ in range(600):
        time.sleep(0.1)
        if list((tmp_path / "killed").glob("fit-*.safetensors")):
            break
    time.sleep(0.4)
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    wanted = undisturbed.communicate()[0].strip()
    survivor = start(tmp_path / "killed", 0.0)
    found = survivor.communicate()[0].strip()
    assert len(wanted) == 64
    assert found == wanted
