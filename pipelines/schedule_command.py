"""`secateur schedule apply | show | delete -f schedule.yaml`: when a pipeline runs by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deploy.schedule import Schedule

app = typer.Typer(no_args_is_help=True, help="Keep one recurring run on Kubeflow as a file describes it.")

File = Annotated[Path, typer.Option("--file", "-f", help="YAML: name, pipeline, version, cron, parameters, …")]
Host = Annotated[str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="Address of Kubeflow's API; empty inside it.")]
Namespace = Annotated[str, typer.Option(envvar="SECATEUR_NAMESPACE", help="Namespace, where Kubeflow has several.")]


@app.command()
def apply(file: File, host: Host = "", namespace: Namespace = "") -> None:
    """Create the recurring run, or replace one that differs; the same file twice changes nothing."""
    from deploy import schedule
    from deploy.kubeflow import asking, connect

    wanted = load(file)
    with asking(host):
        done = schedule.apply(connect(host, namespace), wanted)
    print(f"{wanted.name}  {done['action']}  {done['id']}")


@app.command()
def show(file: File, host: Host = "", namespace: Namespace = "") -> None:
    """Print what Kubeflow has under the file's name, as JSON."""
    from deploy import schedule
    from deploy.kubeflow import asking, connect

    wanted = load(file)
    with asking(host):
        found = schedule.show(connect(host, namespace), wanted.name)
    print(json.dumps(found, indent=1, default=str))


@app.command()
def delete(file: File, host: Host = "", namespace: Namespace = "") -> None:
    """Delete the recurring run; runs that it started stay."""
    from deploy import schedule
    from deploy.kubeflow import asking, connect

    wanted = load(file)
    with asking(host):
        found = schedule.delete(connect(host, namespace), wanted.name)
    print(f"{wanted.name}  deleted {len(found)}")


def load(file: Path) -> Schedule:
    """Return the schedule of a YAML file, its parameters checked when the pipeline is one of this package.

    Raises:
        ValueError: An unknown or missing key, a bad cron expression, a parameter that the pipeline does not take.
    """
    from deploy.schedule import Schedule, keys
    from pipelines.compile import PIPELINES, pipeline_of, title
    from pipelines.parameters import arguments, check_keys, read_yaml

    if not file.is_file():
        raise ValueError(
            f"{file} is no file: name the YAML file of a schedule (name, pipeline, version, cron, parameters)."
        )
    written = read_yaml(file)
    known, required = keys()
    check_keys(str(file), written, known)
    if missing := [key for key in required if not written.get(key)]:
        raise ValueError(f"{file}: {', '.join(missing)} is missing; a version is a name or latest.")
    ours = {title(name): name for name in PIPELINES}
    name = ours.get(str(written["pipeline"]), str(written["pipeline"]))
    if name in PIPELINES:
        parameters = arguments(f"{file}, parameters", written.get("parameters") or {}, pipeline_of(name))
        written = written | {"pipeline": title(name), "parameters": parameters}
    return Schedule(**written | {"version": str(written["version"])})
