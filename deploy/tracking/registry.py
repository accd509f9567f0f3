"""Names, versions and aliases in the model registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deploy.tracking.destination import clipped, quoted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def version_of(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias points at, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if _is_missing(error):
            return None
        raise


def known_aliases(client: MlflowClient) -> list[str]:
    """Return all that `version_of` can find, as "digits@champion"."""
    names = [model.name for model in client.search_registered_models()]
    return [f"{name}@{alias}" for name in names for alias in client.get_registered_model(name).aliases]


def find_version(client: MlflowClient, name: str, source: str) -> ModelVersion | None:
    """Return the newest version of `name` that was registered from `source`, or None."""
    versions = client.search_model_versions(f"name = '{quoted(name)}'")
    same = [version for version in versions if version.source == source]
    return max(same, key=lambda version: int(version.version), default=None)


def ensure_name(client: MlflowClient, name: str) -> None:
    """Make a registered model unless there is one of that name."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def register(
    client: MlflowClient, name: str, model_id: str, *, run_id: str, tags: Mapping[str, str], description: str = ""
) -> ModelVersion:
    """Return the version of `name` made from a LoggedModel; registered at most once.

    MLflow keeps `models:/m-…` as the version's source and leaves its model_id empty, so the source identifies it.
    """
    source = f"models:/{model_id}"
    ensure_name(client, name)
    version = find_version(client, name, source)
    if version is None:
        version = client.create_model_version(
            name, source, run_id=run_id, model_id=model_id, tags=clipped(tags), description=description
        )
    for key, value in clipped(tags).items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(name, version.version, key, value)
    return version


def split_name(text: str) -> tuple[str, str]:
    """Return model and alias of "digits@champion" or "models:/digits@champion".

    >>> split_name("models:/digits@champion")
    ('digits', 'champion')
    """
    name, at, alias = text.removeprefix("models:/").partition("@")
    if not (name and at and alias):
        raise ValueError(f"{text!r} names no alias: write for example models:/digits@champion.")
    return name, alias


def _is_missing(error: Exception) -> bool:
    code = getattr(error, "error_code", "")
    return code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND") or ("alias" in str(error) and "not found" in str(error))
