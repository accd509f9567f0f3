"""The TrainJob's manifest, against the models of Kubeflow Trainer's own package and against our own command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from compress import cli
from deploy.pods import as_yaml
from deploy.trainjob import Training, command, manifest, variables

IMAGE = "registry.example/secateur@sha256:" + "0" * 64


def training(**changes: Any) -> Training:
    facts: dict[str, Any] = {"name": "teacher", "image": IMAGE, "task": "digits", "config": {"epochs": 2}}
    return Training(**(facts | changes))


def pod(document: dict[str, Any]) -> dict[str, Any]:
    (patch,) = document["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    found: dict[str, Any] = job["template"]["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_nodes": 2, "processes_per_node": 8, "gpus_per_node": 8, "namespace": "team", "secret": "s3"},
        {"env": {"ACCELERATE_USE_CPU": "true"}, "processes_per_node": 4},
    ],
)
def test_every_field_is_known_to_trainer(changes: dict[str, Any]) -> None:
    models = pytest.importorskip(
        "kubeflow_trainer_api.models", reason="kubeflow-trainer-api is not installed: uv pip install it"
    )
    document = yaml.safe_load(as_yaml([manifest(training(**changes))]))
    parsed = models.TrainerV1alpha1TrainJob.from_dict(document)
    assert parsed.to_dict() == document, "a field that the model does not know is dropped by it"
    misspelt = json.loads(json.dumps(document).replace('"numNodes"', '"nodes"'))
    assert models.TrainerV1alpha1TrainJob.from_dict(misspelt).to_dict() != misspelt


def test_machines_processes_gpus_and_volumes_arrive() -> None:
    document = manifest(training(num_nodes=2, processes_per_node=4, gpus_per_node=4, secret="s3", claim="space"))
    trainer = document["spec"]["trainer"]
    assert (trainer["image"], trainer["numNodes"], trainer["numProcPerNode"]) == (IMAGE, 2, 4)
    assert {found["nvidia.com/gpu"] for found in trainer["resourcesPerNode"].values()} == {"4"}
    env = {one["name"]: one for one in trainer["env"]}
    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "s3"
    found = pod(document)
    volumes = {one["name"] for one in found["volumes"]}
    assert {mount["name"] for mount in found["containers"][0]["volumeMounts"]} == volumes
    assert found["volumes"][0]["persistentVolumeClaim"] == {"claimName": "space"}
    security = found["containers"][0]["securityContext"]
    assert (security["runAsNonRoot"], security["readOnlyRootFilesystem"]) == (True, True)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert found["securityContext"] == {"fsGroup": security["runAsUser"]}, "who owns the volumes is the pod's to say"
    assert "env" not in found["containers"][0], "Trainer refuses env in a patch of the container node"


def test_the_job_asks_the_same_stores_as_the_pipelines() -> None:
    env = {one["name"]: one for one in manifest(training())["spec"]["trainer"]["env"]}
    for name in ("AWS_ENDPOINT_URL", "SECATEUR_DATA", "SECATEUR_CACHE"):
        assert env[name]["valueFrom"]["configMapKeyRef"] == {"name": "secateur", "key": name, "optional": True}
    assert "SECATEUR_IMAGE_DIGEST" not in env, "it is that of the pipelines' image"
    own = manifest(training(env={"AWS_ENDPOINT_URL": "http://s3:9000"}))["spec"]["trainer"]["env"]
    assert [one for one in own if one["name"] == "AWS_ENDPOINT_URL"] == [
        {"name": "AWS_ENDPOINT_URL", "value": "http://s3:9000"}
    ]
    bare = manifest(training(config_map=""))["spec"]["trainer"]["env"]
    assert [one["name"] for one in bare] == ["HOME"]


@pytest.mark.parametrize("word", ["AWS_ENDPOINT_URL", "=http://s3", "A B=1"])
def test_a_variable_has_a_name_and_a_value(word: str) -> None:
    with pytest.raises(ValueError, match="write NAME=VALUE"):
        variables([word])


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "PGPASSWORD", "hf_token"])
def test_a_secret_is_no_variable_of_a_manifest(name: str) -> None:
    with pytest.raises(ValueError, match="put it into a Secret") as caught:
        variables([f"{name}=abcd1234"])
    assert "abcd1234" not in str(caught.value)


def test_the_command_is_one_that_we_understand(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from typer.testing import CliRunner

    called: list[Any] = []
    monkeypatch.setattr(cli, "_run", lambda stage, config, parents, given: called.append((stage, config, given)))
    cli.add_stage_commands()
    words = command(training(mount=str(tmp_path)))
    assert words[:3] == ["torchrun", "-m", "compress.cli"]
    result = CliRunner().invoke(cli.app, words[3:])
    assert result.exit_code == 0, result.output
    ((stage, config, given),) = called
    assert (stage, config, given["task"]) == ("train", {"epochs": 2}, "digits")
    assert given["store"] == tmp_path / "store"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "1-teacher"}, "a letter first"),
        ({"image": "registry.example/secateur"}, "give a tag or a digest"),
        ({"shared_memory": "lots"}, "for example 2Gi"),
        ({"num_nodes": 0}, "at least 1 machine"),
        ({"gpus_per_node": 2}, "one process a GPU"),
        ({"num_nodes": 3}, "choose a multiple of 3"),
    ],
)
def test_mistakes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(**changes)


def test_the_subcommand_prints_it() -> None:
    import typer
    from typer.testing import CliRunner

    from deploy.commands import trainjob

    app = typer.Typer()
    app.command()(trainjob)
    base = ["--name", "teacher", "--image", IMAGE, "--task", "digits"]
    result = CliRunner().invoke(app, [*base, "--gpus", "2", "--config", '{"epochs": 2}'])
    assert result.exit_code == 0, result.output
    expected = training(processes_per_node=2, gpus_per_node=2)
    assert yaml.safe_load(result.output) == manifest(expected)
    more = ["--env", "AWS_ENDPOINT_URL=http://s3:9000", "--env", "A=b=c", "--config-map", "facts"]
    result = CliRunner().invoke(app, [*base, "--config", '{"epochs": 2}', *more])
    expected = training(env={"AWS_ENDPOINT_URL": "http://s3:9000", "A": "b=c"}, config_map="facts")
    assert yaml.safe_load(result.output) == manifest(expected)
    refused = CliRunner().invoke(app, [*base, "--config", '{"epoch": 2}'])
    assert "Did you mean 'epochs'" in str(refused.exception)
    refused = CliRunner().invoke(app, [*base[:-1], "digitz"])
    assert "Did you mean 'digits'" in str(refused.exception)
