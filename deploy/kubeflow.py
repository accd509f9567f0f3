"""Talking to Kubeflow Pipelines: one client, names instead of ids, and errors that say what to do."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfp import Client

#: Kubeflow's own variable for the address of its API.
ENDPOINT = "KF_PIPELINES_ENDPOINT"
#: Bearer token, for an API behind authentication.
TOKEN = "KF_PIPELINES_TOKEN"
#: Kubeflow's own variable for the file in which a pod finds a token that is renewed.
TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"
#: Written for "the newest version, whichever that is when it starts".
LATEST = "latest"
PAGE = 100
#: What a run may tell Kubeflow's MLflow plugin (KEP-12862).
PLUGIN_KEYS = ("experiment_name", "experiment_id", "disabled")


class KubeflowError(RuntimeError):
    """Kubeflow did not answer, or refused. Says where and why."""


def connect(host: str = "", namespace: str = "") -> Client:
    """Return a client of Kubeflow Pipelines.

    Args:
        host: Address of the API; empty: KF_PIPELINES_ENDPOINT, or the cluster that this pod runs in. KF_PIPELINES_TOKEN
            proves who asks, else the token in the file KF_PIPELINES_SA_TOKEN_PATH, which is read again when it expires.
        namespace: Namespace of the user; empty where Kubeflow has a single one.
    """
    with _quiet():
        import kfp
        from kfp.client import ServiceAccountTokenVolumeCredentials

        token, path = os.environ.get(TOKEN) or None, os.environ.get(TOKEN_FILE)
        credentials = ServiceAccountTokenVolumeCredentials(path) if path and not token else None
        client = kfp.Client(host=host or None, existing_token=token, credentials=credentials)
    if namespace:
        client._context_setting["namespace"] = namespace
    return client


@contextmanager
def asking(host: str = "") -> Iterator[None]:
    """Turn what the API answers into one sentence, and keep Kubeflow's links off the terminal.

    Raises:
        KubeflowError: Kubeflow refused, or nobody answers.
    """
    import kfp_server_api
    import urllib3

    where = host or os.environ.get(ENDPOINT) or "the cluster's own address"
    try:
        with _quiet():
            yield
    except kfp_server_api.ApiException as error:
        hint = f"set {TOKEN} to a token that may do this" if error.status in (401, 403) else "see the reason"
        raise KubeflowError(
            f"Kubeflow at {where} refused ({error.status}): {reason_of(error)}. To repair: {hint}."
        ) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        repair = f"set {ENDPOINT} (or --host) to its address, or open one: kubectl port-forward svc/ml-pipeline 8888"
        raise KubeflowError(f"Kubeflow at {where} does not answer: {error}. To repair: {repair}.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def reason_of(error: Any) -> str:
    """Return what Kubeflow's API says about a call that it refused."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or error.reason)[:300]


def everything(ask: Callable[..., Any], field: str, **given: Any) -> list[Any]:
    """Return all pages of a list of Kubeflow's API.

    Args:
        ask: One of the client's list methods.
        field: Attribute of the answer that holds the items.
        given: More arguments of `ask`.
    """
    found: list[Any] = []
    token = ""
    while True:
        answer = ask(page_token=token, page_size=PAGE, **given)
        found += getattr(answer, field) or []
        token = answer.next_page_token or ""
        if not token:
            return found


def pipeline_id(client: Client, name: str) -> str:
    """Return the id of a pipeline.

    Raises:
        ValueError: There is none of that name; offers the nearest.
    """
    namespace = client.get_user_namespace() or None
    known = {
        pipeline.display_name: pipeline.pipeline_id
        for pipeline in everything(client.list_pipelines, "pipelines", namespace=namespace)
    }
    if name not in known:
        raise ValueError(f"Kubeflow has no pipeline {name!r}. {_near(name, known)}Upload it: secateur pipeline upload.")
    return str(known[name])


def version_id(client: Client, pipeline: str, name: str) -> str:
    """Return the id of a version of a pipeline; the newest one for "latest".

    Raises:
        ValueError: There is none of that name; offers the nearest.
    """
    found = versions(client, pipeline)
    if name == LATEST and found:
        return str(found[-1].pipeline_version_id)
    known = {version.display_name: version.pipeline_version_id for version in found}
    if name not in known:
        raise ValueError(
            f"the pipeline has no version {name!r}. {_near(name, known)}There are {', '.join(known) or 'none'}."
        )
    return str(known[name])


def versions(client: Client, pipeline: str) -> list[Any]:
    """Return the versions of a pipeline, the oldest first."""
    found = everything(client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline)
    return sorted(found, key=lambda version: version.created_at)


def experiment_id(client: Client, name: str) -> str:
    """Return the id of an experiment of Kubeflow, made on first use."""
    return str(client.create_experiment(name).experiment_id)


def upload(client: Client, package: Path, name: str, version: str, description: str = "") -> str:
    """Upload a compiled pipeline as a version; the same name and version again changes nothing.

    Args:
        client: Connected.
        package: File with the intermediate representation.
        name: Name of the pipeline.
        version: Name of the version.
        description: Shown in Kubeflow's pages.

    Returns:
        Id of the version.
    """
    namespace = client.get_user_namespace() or None
    known = everything(client.list_pipelines, "pipelines", namespace=namespace)
    pipeline = next((one.pipeline_id for one in known if one.display_name == name), None)
    if pipeline is None:
        pipeline = _made(client, name, description, namespace)
    found = next((one for one in versions(client, pipeline) if one.display_name == version), None)
    if found is None:
        found = client.upload_pipeline_version(
            str(package), version, pipeline_id=pipeline, description=description or None
        )
    return str(found.pipeline_version_id)


def _made(client: Client, name: str, description: str, namespace: str | None) -> str:
    """Return the id of a new pipeline without versions; `Client.upload_pipeline` would add one of its own name."""
    from kfp_server_api import V2beta1Pipeline

    body = V2beta1Pipeline(name=name, display_name=name, description=description or None, namespace=namespace)
    return str(client._pipelines_api.pipeline_service_create_pipeline(pipeline=body).pipeline_id)


def plugins_input(mlflow: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a run tells Kubeflow's MLflow plugin; None, and nothing is sent, when there is nothing to tell.

    >>> plugins_input({"disabled": True})
    {'mlflow': {'disabled': True}}

    Raises:
        ValueError: A key that the plugin does not know.
    """
    for key in mlflow:
        if key not in PLUGIN_KEYS:
            raise ValueError(f"mlflow_plugin: unknown key {key!r}. {_near(key, PLUGIN_KEYS)}".strip())
    return {"mlflow": dict(mlflow)} if mlflow else None


def start(
    client: Client,
    *,
    experiment: str,
    job: str,
    pipeline: str,
    version: str,
    parameters: Mapping[str, Any],
    plugins: Mapping[str, Any] | None = None,
    service_account: str = "",
) -> str:
    """Start a run and return its id; unlike `kfp.Client.run_pipeline` it can speak to plugins.

    Args:
        client: Connected.
        experiment: Id of the experiment.
        job: Name of the run.
        pipeline: Id of the pipeline.
        version: Id of the version.
        parameters: Inputs of the pipeline.
        plugins: What `plugins_input` returned.
        service_account: Account that the pods use; empty: Kubeflow's default.
    """
    from kfp_server_api import V2beta1PipelineVersionReference, V2beta1Run, V2beta1RuntimeConfig

    run = V2beta1Run(
        experiment_id=experiment,
        display_name=job,
        pipeline_version_reference=V2beta1PipelineVersionReference(pipeline_id=pipeline, pipeline_version_id=version),
        runtime_config=V2beta1RuntimeConfig(parameters=dict(parameters)),
        service_account=service_account or None,
        plugins_input=dict(plugins) if plugins else None,
    )
    return str(client._run_api.run_service_create_run(run=run).run_id)


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""
