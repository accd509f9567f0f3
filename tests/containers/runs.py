"""Runs of pipelines in containers: started here, judged by the outputs that their tasks left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.outputs import PREFIX
from tests.containers.engine import Engine

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """An ended run.

    Attributes:
        status: Exit status of the process that ran it.
        text: All that it and its tasks said.
        folder: Holds `outputs` (Kubeflow's) and `workspace`.
    """

    status: int
    text: str
    folder: Path

    def answers(self) -> list[dict[str, Any]]:
        """Return what each task of the pipeline answered, in the order in which they ended."""
        lines = (line.partition(PREFIX)[2] for line in self.text.splitlines() if PREFIX in line)
        return [json.loads(line) for line in lines]

    def outputs(self, task: str) -> list[dict[str, Any]]:
        """Return the output parameters of every run of a task, from the files that its containers wrote."""
        paths = sorted((self.folder / "outputs").glob(f"**/{task}/executor_output.json"))
        return [json.loads(path.read_text()).get("parameterValues", {}) for path in paths]


def run(engine: Engine, image: str, name: str, folder: Path, given: Mapping[str, Any], **variables: str) -> Done:
    """Run a pipeline in containers.

    Args:
        engine: Runs them.
        image: Image of every task.
        name: A pipeline of the house, or `control`.
        folder: Empty; for everything that the run writes.
        given: Arguments of the pipeline.
        variables: Environment of every task.
    """
    for place in (folder, folder / "outputs", folder / "workspace"):
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o777)
    (folder / "arguments.json").write_text(json.dumps(given))
    (folder / "environment.json").write_text(json.dumps(variables))
    environment = {**os.environ, "DOCKER_HOST": engine.host, "SECATEUR_IMAGE": image, "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, "-u", "-m", "tests.containers.dag", str(folder), name],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, folder)
