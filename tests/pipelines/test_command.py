"""`secateur pipeline` and `secateur schedule`, from the command line to a stateful stand-in for Kubeflow's API."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp_server_api import models

from compress import cli
from pipelines.compile import committed, normalized
from tests.deploy.kubeflow_api import State, kubeflow

PARAMETERS = """
preset: digits
gpu_type: nvidia.com/gpu
gpu_limit: 2
node_selector: {accelerator: a100}
tolerations: [{key: nvidia.com/gpu, operator: Exists}]
secret: my-credentials
config_map: my-addresses
image: registry.example/secateur-python@sha256:0123
"""


@pytest.fixture
def say(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    def call(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["secateur", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    with kubeflow() as (host, state):
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", host)
        yield state


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "parameters.yaml"
    path.write_text(PARAMETERS)
    return path


@pytest.mark.slow
def test_upload_run_and_status(say: Any, served: State, file: Path) -> None:
    assert say("pipeline", "upload", "--version", "1.0")[0] == 0
    again = say("pipeline", "upload", "--version", "1.0")
    assert again[0] == 0
    (version,) = served.items["versions"].values()
    assert again[1].split() == ["secateur-compress", "1.0", version.pipeline_version_id]
    status, out, err = say("pipeline", "run", "-f", file, "--job", "first", "--service-account", "runner")
    assert (status, err) == (0, "")
    run = served.items["runs"][out.strip()]
    assert run.display_name == "first"
    assert run.service_account == "runner"
    assert run.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    given = run.runtime_config.parameters
    assert given["gpu_limit"] == "2"
    assert given["node_selector"] == {"accelerator": "a100"}
    assert given["tolerations"][0]["operator"] == "Exists"
    assert (given["secret"], given["config_map"]) == ("my-credentials", "my-addresses")
    assert given["task"] == '{"name": "digits"}'
    assert json.loads(given["budgets"][0]["prune"])["budget"] == "macs=0.24"
    assert "preset" not in given
    assert run.plugins_input is None, "nothing is said to a plugin that may be absent"
    status, out, _ = say("pipeline", "status", run.run_id)
    assert (status, out.split()) == (0, ["first", "PENDING"])


@pytest.mark.slow
def test_constants_of_this_cluster_are_compiled_in_when_it_is_uploaded(
    say: Any, served: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[str] = []
    monkeypatch.setattr("deploy.kubeflow.upload", lambda _, file, *__: sent.append(file.read_text()) or "id")
    words = ["pipeline", "upload", "--version", "1.0"]
    assert say(*words, "--data-claim", "night-data", "--user", "0")[0] == 0
    assert say(*words)[0] == 0
    assert "constant: night-data" in sent[0]
    assert "runAsUser" not in sent[0]
    assert sent[1] == committed("compress").read_text()
    status, _, err = say(*words, "--package", tmp_path / "mine.yaml", "--data-claim", "night-data")
    assert status != 0
    assert "give them to" in err


def test_status_of_a_failed_run_names_the_task(say: Any, served: State) -> None:
    tasks = [models.V2beta1PipelineTaskDetail(display_name="prune", state="FAILED")]
    details = models.V2beta1RunDetails(task_details=tasks)
    failed = models.V2beta1Run(display_name="night", state="FAILED", run_details=details)
    run = served.add("runs", "run_id", failed)
    status, out, _ = say("pipeline", "status", run.run_id)
    assert status == 1
    assert out.splitlines() == ["night  FAILED", "  FAILED       prune"]
    assert json.loads(say("pipeline", "status", run.run_id, "--json")[1])["tasks"][0]["state"] == "FAILED"
    status, _, err = say("pipeline", "status", "nobody")
    assert status == 2
    assert "refused (404): runs nobody not found" in err


@pytest.mark.parametrize(
    ("option", "sent"),
    [
        ("on", None),
        ("off", {"mlflow": {"disabled": True}}),
        ("nights", {"mlflow": {"experiment_name": "nights"}}),
    ],
)
def test_a_run_speaks_to_kubeflows_mlflow_plugin_only_when_asked(
    say: Any, served: State, file: Path, option: str, sent: Any
) -> None:
    say("pipeline", "upload", "--version", "1.0")
    _, out, _ = say("pipeline", "run", "-f", file, "--mlflow-plugin", option)
    assert served.items["runs"][out.strip()].plugins_input == sent


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("preset: digits\ngpu_limits: 2\n", "unknown key 'gpu_limits'. Did you mean 'gpu_limit'?"),
        ("preset: digits\ngpu_limit: one\n", "gpu_limit is a number of accelerators, 0 or more; got 'one'"),
        ("preset: digitz\n", "no preset 'digitz'. Did you mean 'digits'?"),
        ("task: digits\n", "budgets is missing: write it, or name a preset (digits, fashion_mnist)"),
        ("preset: digits\nnode_selector: [a100]\n", "node_selector is a dict; got ['a100']"),
        ("preset: digits\nsecret: {name: s}\n", "secret is a str"),
        ("- preset\n", "holds a list: write one `name: value` a line"),
        ("preset: [\n", "is not valid YAML"),
    ],
)
def test_a_mistake_in_the_parameters_is_refused_before_kubeflow_is_asked(
    say: Any, served: State, file: Path, text: str, said: str
) -> None:
    file.write_text(text)
    status, _, err = say("pipeline", "run", "-f", file)
    assert status == 2
    assert said in err
    assert str(file) in err or "preset" in err
    assert served.requests == []


@pytest.mark.slow
def test_compile_writes_what_is_committed_and_takes_the_clusters_constants(say: Any, tmp_path: Path) -> None:
    output = tmp_path / "out.yaml"
    assert say("pipeline", "compile", "-o", output)[0] == 0
    assert normalized(output.read_text()) == normalized(committed("compress").read_text())
    options = ("--shared-memory", "8Gi", "--workspace-claim", "mine", "--num-retries", "0")
    assert say("pipeline", "compile", "-p", "nightly", "-o", output, *options)[0] == 0
    spec, platform = yaml.safe_load_all(output.read_text())
    assert spec["pipelineInfo"]["name"] == "secateur-nightly"
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-prune"]["emptyDirMounts"][0]["sizeLimit"] == "8Gi"
    assert executors["exec-prune"]["pvcMount"][0]["constant"] == "mine"
    assert "retryPolicy" not in output.read_text()
    status, _, err = say("pipeline", "compile", "-p", "nihgtly", "-o", output)
    assert status == 2
    assert "Did you mean 'nightly'?" in err


SCHEDULE = """
name: night
pipeline: nightly
version: latest
cron: 0 0 2 * * *
parameters:
  preset: digits
  teacher: models:/digits-teacher@champion
"""


def test_a_schedule_is_applied_shown_and_deleted(say: Any, served: State, tmp_path: Path) -> None:
    file = tmp_path / "schedule.yaml"
    file.write_text(SCHEDULE)
    status, _, err = say("schedule", "apply", "-f", file)
    assert status == 2
    assert "secateur pipeline upload" in err
    say("pipeline", "upload", "-p", "nightly", "--version", "1.0")
    assert "created" in say("schedule", "apply", "-f", file)[1]
    assert "unchanged" in say("schedule", "apply", "--file", file)[1]
    (made,) = served.items["recurring_runs"].values()
    assert made.runtime_config.parameters["teacher"] == "models:/digits-teacher@champion"
    assert made.no_catchup is True
    (shown,) = json.loads(say("schedule", "show", "-f", file)[1])
    assert (shown["cron"], shown["version_id"], shown["max_concurrency"]) == ("0 0 2 * * *", "latest", 1)
    assert "deleted 1" in say("schedule", "delete", "-f", file)[1]
    assert "deleted 0" in say("schedule", "delete", "-f", file)[1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cron: 0 0 2", "crom: 0 0 2", "unknown key 'crom'. Did you mean 'cron'?"),
        ("version: latest\n", "", "version is missing; a version is a name or latest"),
        ("cron: 0 0 2", "cron: 0 2", "begins with seconds"),
        ("  teacher:", "  techer:", "parameters: unknown key 'techer'. Did you mean 'teacher'?"),
        ("preset: digits", "preset: digts", "Did you mean 'digits'"),
        ("digits-teacher@", "digits@", "compress the student of the night before"),
    ],
)
def test_a_mistake_in_a_schedule_is_refused(
    say: Any, served: State, tmp_path: Path, old: str, new: str, said: str
) -> None:
    file = tmp_path / "schedule.yaml"
    assert old in SCHEDULE
    file.write_text(SCHEDULE.replace(old, new))
    status, _, err = say("schedule", "apply", "-f", file)
    assert status == 2
    assert said in err
    assert served.requests == []


def test_the_commands_are_listed(say: Any) -> None:
    out = say("--help")[1]
    assert "pipeline" in out
    assert "schedule" in out
