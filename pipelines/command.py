"""`secateur pipeline compile | upload | run | status`: the pipelines of this package on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Compile the pipelines, upload, run and watch them on Kubeflow.")

Name = Annotated[str, typer.Option("--pipeline", "-p", help="compress or nightly.")]
Host = Annotated[str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="Address of Kubeflow's API; empty inside it.")]
Namespace = Annotated[str, typer.Option(envvar="SECATEUR_NAMESPACE", help="Namespace, where Kubeflow has several.")]
SharedMemory = Annotated[str, typer.Option(help="Size of /dev/shm, for PyTorch's loader processes.")]
Claim = Annotated[str, typer.Option(help="Volume claim (read-write-many) that all tasks mount.")]
DataClaim = Annotated[str, typer.Option(help="Volume claim (read-write-many) for fetched data; empty: the workspace.")]
User = Annotated[int, typer.Option(help="User of the tasks; 0: the image's, or what the cluster chooses.", min=0)]
Retries = Annotated[int, typer.Option(help="How often a failed task is tried again.", min=0)]
Parallelism = Annotated[int, typer.Option(help="Budgets at the same time; 0 for all.", min=0)]
Parameters = Annotated[Path, typer.Option("--parameters", "-f", help="YAML file with the pipeline's parameters.")]


@app.command("compile")
def compile_pipeline(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    pipeline: Name = "compress",
    shared_memory: SharedMemory = "2Gi",
    workspace_claim: Claim = "secateur-workspace",
    data_claim: DataClaim = "",
    user: User = 1000,
    num_retries: Retries = 2,
    parallelism: Parallelism = 0,
) -> None:
    """Write a pipeline's intermediate representation, with this cluster's constants."""
    from pipelines.compile import representation
    from pipelines.placement import Placement

    placement = Placement(
        shared_memory=shared_memory,
        workspace_claim=workspace_claim,
        data_claim=data_claim,
        user=user,
        num_retries=num_retries,
        parallelism=parallelism,
    )
    output.write_text(representation(pipeline, placement))
    print(f"{pipeline} -> {output}")


@app.command()
def upload(
    version: Annotated[str, typer.Option(help="Name of the version; the same again changes nothing.")],
    pipeline: Name = "compress",
    package: Annotated[Path | None, typer.Option(help="Compiled file; default: the one of this package.")] = None,
    data_claim: DataClaim = "",
    user: User = 1000,
    host: Host = "",
    namespace: Namespace = "",
) -> None:
    """Upload a compiled pipeline as a version; another data claim or user than the committed one is compiled in."""
    import tempfile

    from deploy.kubeflow import asking, connect
    from deploy.kubeflow import upload as send
    from pipelines.compile import committed, representation, title
    from pipelines.placement import Placement

    constants = Placement(data_claim=data_claim, user=user)
    if package and constants != Placement():
        raise ValueError(
            "--data-claim and --user are constants of the package: give them to `secateur pipeline compile`."
        )
    file = package or committed(pipeline)
    if not file.is_file():
        raise ValueError(f"{file} is no file: compile it first (secateur pipeline compile -o {file}).")
    with tempfile.TemporaryDirectory(prefix="secateur-") as scratch:
        if constants != Placement():
            file = Path(scratch) / file.name
            file.write_text(representation(pipeline, constants))
        with asking(host):
            found = send(connect(host, namespace), file, title(pipeline), version)
    print(f"{title(pipeline)} {version} {found}")


@app.command()
def run(  # noqa: PLR0913 - one parameter an option
    parameters: Parameters,
    pipeline: Name = "compress",
    version: Annotated[str, typer.Option(help="Version to run, or latest.")] = "latest",
    experiment: Annotated[str, typer.Option(help="Experiment of Kubeflow.")] = "secateur",
    job: Annotated[str, typer.Option(help="Name of the run.")] = "",
    service_account: Annotated[str, typer.Option(help="Account of the pods.")] = "",
    mlflow_plugin: Annotated[str, typer.Option(help="on, off, or an experiment's name, for Kubeflow's plugin.")] = "on",
    host: Host = "",
    namespace: Namespace = "",
) -> None:
    """Start a run with the parameters of a YAML file; prints its id."""
    from deploy import kubeflow
    from pipelines.compile import pipeline_of, title
    from pipelines.parameters import arguments, read_yaml

    given = arguments(str(parameters), read_yaml(parameters), pipeline_of(pipeline))
    plugins = kubeflow.plugins_input(_plugin(mlflow_plugin))
    with kubeflow.asking(host):
        client = kubeflow.connect(host, namespace)
        chosen = kubeflow.pipeline_id(client, title(pipeline))
        started = kubeflow.start(
            client,
            experiment=kubeflow.experiment_id(client, experiment),
            job=job or str(given.get("run_name") or title(pipeline)),
            pipeline=chosen,
            version=kubeflow.version_id(client, chosen, version),
            parameters=given,
            plugins=plugins,
            service_account=service_account,
        )
    print(started)


@app.command()
def status(
    run_id: Annotated[str, typer.Argument(help="What `run` printed.")],
    host: Host = "",
    namespace: Namespace = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the state of a run and of its tasks; exit status 1 when it failed."""
    import json

    from deploy.kubeflow import asking, connect

    with asking(host):
        found = connect(host, namespace).get_run(run_id)
    tasks = found.run_details.task_details if found.run_details else None
    facts = {
        "run_id": found.run_id,
        "name": found.display_name,
        "state": found.state,
        "error": found.error.message if found.error else "",
        "tasks": [{"name": task.display_name, "state": task.state} for task in tasks or []],
    }
    print(json.dumps(facts, indent=1) if as_json else _lines(facts))
    if found.state in ("FAILED", "CANCELED"):
        raise typer.Exit(1)


def _plugin(text: str) -> dict[str, Any]:
    if text in ("on", ""):
        return {}
    return {"disabled": True} if text == "off" else {"experiment_name": text}


def _lines(facts: dict[str, Any]) -> str:
    lines = [f"{facts['name']}  {facts['state']}  {facts['error']}".rstrip()]
    return "\n".join([*lines, *(f"  {task['state'] or 'UNKNOWN':<12} {task['name']}" for task in facts["tasks"])])
