"""Commands that `deploy` adds to `secateur`; named by the entry point group `secateur.commands`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from compress.cli import DEFAULT_STORE


def pull(
    name: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION or models:/m-….")],
    to: Annotated[Path, typer.Option(help="Link that shows the package; its versions lie hidden beside it.")],
    uri: Annotated[str, typer.Option(help="MLflow. Default: MLFLOW_TRACKING_URI.", show_default=False)] = "",
    backend: Annotated[str, typer.Option(help="Triton backend for ONNX files: onnxruntime or python.")] = "",
    also: Annotated[
        list[str] | None, typer.Option(help="tensorrt or aotinductor: let Triton find it too; may be repeated.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and follow the alias.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks at the alias.")] = 30.0,
    triton: Annotated[str, typer.Option(help="HOST:PORT of a Triton's gRPC that loads what was pulled.")] = "",
) -> None:
    """Get a promoted model: every file checked, switched in one step, the version before kept.

    With --watch the folder follows the alias until the command is stopped; while MLflow is away, what is there stays.
    A server given by --triton (--model-control-mode explicit, --model-repository TO) loads each new version
    while the old one answers. --also shows it what only some machines can run, and what is machine code: engines, for
    the kind of GPU that built them, and the compiled package, for a Triton whose Python has torch.
    """
    from deploy.pull import EXAMPLE, output_difference
    from deploy.pull import pull as pull_once
    from deploy.watch import Settings, follow

    if watch or triton:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
        settings = Settings(
            name=name, folder=to, uri=uri, backend=backend, interval_s=interval, triton=triton, also=tuple(also or ())
        )  # fmt: skip
        follow(settings, is_once=not watch)
        return
    folder = pull_once(name, to, uri=uri, backend=backend, also=also or ())
    print(f"{name} -> {folder} ({folder.resolve().name})")
    if (folder / EXAMPLE).is_file():
        print(f"largest difference to the packaged outputs: {output_difference(folder):.2g}")


def promote(
    export: Annotated[str, typer.Argument(help="Export to promote: an alias, a name or its beginning.")],
    gate: Annotated[str, typer.Option(help="Entry with the verdict on that export.")],
    name: Annotated[str, typer.Option(help="Registered model that gets the version.")],
    cascade: Annotated[str, typer.Option(help="Cascade to pack in.")] = "",
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Export of the same model for another kind of GPU: its engine joins; may be repeated."),
    ] = None,
    uri: Annotated[str, typer.Option(help="MLflow. Default: MLFLOW_TRACKING_URI.", show_default=False)] = "",
    store: Annotated[Path, typer.Option(envvar="SECATEUR_STORE", help="Directory of the local store.")] = DEFAULT_STORE,
) -> None:
    """Register an export and make it the champion, if its gate passed and nobody else was faster.

    One version can hold engines for several kinds of GPU: name with --engine the exports that were made there. Asking
    twice changes nothing the second time. The exit status is 1 when nothing was promoted.
    """
    from compress import catalogue
    from compress.store import LocalStore
    from deploy.mlflow_store import MlflowStore
    from deploy.promote import promote as promote_once
    from deploy.tracking.connection import default_uri

    catalogue.load()
    entries = MlflowStore(LocalStore(store), uri or default_uri(".secateur"))
    judged, verdict = entries.resolve(export), entries.resolve(gate)
    packed = entries.resolve(cascade) if cascade else None
    engines = [entries.resolve(one) for one in engine or ()]
    done = promote_once(entries, entries.uri, name, judged, verdict, packed, engines)
    if not done["promoted"]:
        print(f"secateur: {name}: nothing was promoted: {'; '.join(done['reasons'])}", file=sys.stderr)
        raise typer.Exit(1)
    before = f", before it version {done['previous']}" if done["previous"] else ""
    said = "is the champion already" if done["already"] else f"is the champion{before}"
    print(f"{name}: version {done['version']} {said}: models:/{name}@champion")


def serve(
    folder: Annotated[Path, typer.Argument(help="What `secateur pull` made.")],
    host: Annotated[str, typer.Option(help="Address to listen on; there is no authentication.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.", min=0, max=65535)] = 8080,
    threads: Annotated[int, typer.Option(help="Threads inside one operator.")] = 1,
) -> None:
    """Serve a pulled model without Triton: the Open Inference Protocol v2 over HTTP, by KServe's model server.

    The models have the names that Triton gives them. Runs in the environment that `make .venv-kserve/.done` makes.
    """
    from deploy.serve import serve as serve_folder

    serve_folder(folder, host=host, port=port, num_threads=threads)


def kserve(  # noqa: PLR0913 - one parameter an option
    model: Annotated[str, typer.Argument(help="models:/NAME@ALIAS or models:/NAME/VERSION.")],
    name: Annotated[str, typer.Option(help="Of the InferenceService.")],
    triton_image: Annotated[str, typer.Option(help="Triton's image, with a tag or digest.")],
    namespace: Annotated[str, typer.Option(help="Of the service.")] = "",
    backend: Annotated[str, typer.Option(help="Triton backend for ONNX files: onnxruntime or python.")] = "",
    load: Annotated[list[str] | None, typer.Option(help="Serve this Triton model alone; may be repeated.")] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of a replica.")] = 0,
    storage_container: Annotated[
        bool, typer.Option("--storage-container", help="Print the cluster's download of models:/ too.")
    ] = False,
    image: Annotated[str, typer.Option(help="Of the download: Secateur's image, with a tag or digest.")] = "",
    tracking_uri: Annotated[str, typer.Option(help="Of the download: MLflow as pods reach it.")] = "",
    secret: Annotated[str, typer.Option(help="Of the download: Secret with its credentials.")] = "",
) -> None:
    """Print KServe manifests that serve a promoted model: runtime and service.

    --storage-container adds the download of models:/ addresses. It is one object of the whole cluster: whoever applies
    it changes the download of all services. Where the chart made it (serving.storageContainer), leave it out.
    """
    from deploy import kserve
    from deploy.pods import as_yaml

    made = kserve.manifests(
        kserve.Serving(
            name=name, model=model, triton_image=triton_image, namespace=namespace, backend=backend,
            models=tuple(load or ()), gpus=gpus,
        )
    )  # fmt: skip
    if storage_container:
        storage = kserve.Storage(image=image, tracking_uri=tracking_uri, secret=secret)
        made.insert(0, kserve.storage_container(storage))
    elif image or tracking_uri or secret:
        raise ValueError(
            "--image, --tracking-uri and --secret belong to the cluster's storage container: add --storage-container "
            "to print it too, or leave them out."
        )
    print(as_yaml(made), end="")


def trainjob(  # noqa: PLR0913 - one parameter an option
    name: Annotated[str, typer.Option(help="Of the job.")],
    image: Annotated[str, typer.Option(help="Secateur's image, with a tag or digest.")],
    task: Annotated[str, typer.Option(help="Task: a name or JSON.")],
    config: Annotated[str, typer.Option(help="JSON of the stage's configuration.")] = "{}",
    namespace: Annotated[str, typer.Option(help="Of the job.")] = "",
    runtime: Annotated[str, typer.Option(help="ClusterTrainingRuntime.")] = "torch-distributed",
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    processes: Annotated[int, typer.Option(help="Processes a machine; 0: one a GPU.")] = 0,
    gpus: Annotated[int, typer.Option(help="GPUs a machine.")] = 0,
    claim: Annotated[str, typer.Option(help="Volume claim with the workspace.")] = "secateur-workspace",
    config_map: Annotated[str, typer.Option(help="ConfigMap with S3's address and more, if it is there.")] = "secateur",
    secret: Annotated[str, typer.Option(help="Secret with the S3 keys that reading data needs.")] = "",
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, no secret; may be repeated.")] = None,
) -> None:
    """Print the Kubeflow TrainJob that trains the large network on several GPUs or machines.

    Its entry appears in the workspace's store, where the pipeline's task train finds it.
    """
    import json

    from compress.catalogue import load
    from compress.core.task import TASKS
    from compress.stages.train import TrainConfig
    from deploy.pods import as_yaml
    from deploy.trainjob import Training, manifest, variables

    load()
    TASKS.from_json(json.loads(task) if task.lstrip().startswith("{") else task)
    TrainConfig.from_json(config)
    training = Training(
        name=name, image=image, task=task, config=json.loads(config), namespace=namespace, runtime=runtime,
        num_nodes=nodes, processes_per_node=processes or max(1, gpus), gpus_per_node=gpus, claim=claim,
        config_map=config_map, secret=secret, env=variables(env or ()),
    )  # fmt: skip
    print(as_yaml([manifest(training)]), end="")
