"""A night's recompression: done when the teacher, the data, the configuration or the image changed, and only then."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from compress.core.layout import request_key, write_json
from deploy.conclude import REGISTERED, resolve
from deploy.step import state_path, workspace_folder
from deploy.worker import delegated

#: Verdict of a night that had nothing to do.
UNCHANGED = "unchanged"
#: The image of the tasks by its digest (repository@sha256:…), if whoever set the cluster up knows.
IMAGE_DIGEST = "SECATEUR_IMAGE_DIGEST"
#: Aliases that a promotion moves.
PROMOTED = ("champion", "challenger")


@delegated
def tonight(given: Mapping[str, str], budgets: str, pipeline_run: str) -> dict[str, Any]:
    """Pin everything that a night is made of, open its run, and say what is new since the last night.

    Args:
        given: task, teacher, workspace, run_name and tracking_uri, as `resolve` takes them; train_config (JSON of the
            teacher's training), image (of the tasks) and model_name (what the night may promote).
        budgets: JSON list: name and stage configurations of each student.
        pipeline_run: Identity of this run of the pipeline.

    Returns:
        What `resolve` returns, image (pinned), changes (in words) and is_new.

    Raises:
        ValueError: A task, teacher, option or piece that does not exist, or a teacher that each night would replace
            by its own student; before any work is spent.
    """
    workspace, model_name = given["workspace"], given["model_name"]
    check_teacher(given["teacher"], model_name)
    name = given["run_name"] or f"night {model_name}"
    pinned: dict[str, Any] = dict(
        resolve(given["task"], given["teacher"], workspace, budgets, name, given["tracking_uri"], pipeline_run)
    )
    configuration = {"budgets": json.loads(budgets), "train": given["train_config"], "model_name": model_name}
    made_of = {
        "teacher": pinned["teacher_ref"],
        "data": pinned["task"],
        "configuration": hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest(),
        "image": pinned_image(given["image"]),
        "code": request_key({}),
    }
    changes = changes_since(_last(workspace, model_name), made_of)
    path = state_path(workspace, pipeline_run)
    night = {"night": made_of, "model_name": model_name, "changes": changes}
    if not changes:
        night |= {"verdict": UNCHANGED}
    write_json(path, json.loads(path.read_text()) | night)
    said = "; ".join(changes) or "unchanged since the last night: nothing to do, the champion stays"
    return pinned | {"image": made_of["image"], "changes": said, "is_new": bool(changes)}


def check_teacher(teacher: str, model_name: str) -> None:
    """Raise ValueError for a teacher that a night's own promotion replaces: it would shrink night after night.

    >>> check_teacher("models:/flowers@champion", "flowers-small")
    """
    name, _, alias = teacher.removeprefix(REGISTERED).rpartition("@")
    if name == model_name and alias in PROMOTED:
        raise ValueError(
            f"teacher={teacher!r} is what nights of model_name={model_name!r} promote: each would compress the student "
            f"of the night before. Give the student another model_name, or the teacher an alias that stays, such as "
            f"{name}@teacher."
        )


def pinned_image(image: str) -> str:
    """Return an image by its digest, if it has one or the environment tells that of the same repository; else as given.

    >>> pinned_image("ghcr.io/secateur/secateur-python@sha256:0123")
    'ghcr.io/secateur/secateur-python@sha256:0123'
    """
    known = os.environ.get(IMAGE_DIGEST, "")
    repository, at, _ = known.partition("@")
    return known if at and "@" not in image and _repository(image) == repository else image


def _repository(image: str) -> str:
    """Return an image's name without tag; the colon of a port is not one of a tag."""
    path, slash, last = image.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}"


def changes_since(last: Mapping[str, str] | None, made_of: Mapping[str, str]) -> list[str]:
    """Return what differs between two nights, in words; a first night differs by being the first.

    >>> changes_since({"teacher": "train-1", "image": "a"}, {"teacher": "train-2", "image": "a"})
    ['teacher changed: train-1 -> train-2']
    """
    if last is None:
        return ["the first night that ends with a verdict"]
    return [
        f"{name} changed: {_short(last.get(name, ''))} -> {_short(value)}"
        for name, value in made_of.items()
        if last.get(name) != value
    ]


def remember_night(workspace: str, state: Mapping[str, Any]) -> None:
    """Keep what a night was made of, if it did all that it could: nothing passed, or what passed is champion.

    A night whose promotion did not come about (the registry was away, another run was faster) is done again.

    Args:
        workspace: Folder of the local store.
        state: What the steps of the run share.
    """
    if "night" not in state or state["verdict"] == UNCHANGED:
        return
    passed = any(candidate["passed"] for candidate in state.get("candidates", ()))
    promotion = state.get("promotion") or {}
    if passed and not promotion.get("promoted"):
        return
    facts = {"night": state["night"], "verdict": state["verdict"], "version": promotion.get("version", "")}
    write_json(_path(workspace, state["model_name"]), facts)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:12]}… (sha256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _path(workspace: str, model_name: str) -> Path:
    return workspace_folder(workspace) / "nights" / f"{quote(model_name, safe='')}.json"


def _last(workspace: str, model_name: str) -> dict[str, str] | None:
    path = _path(workspace, model_name)
    return dict(json.loads(path.read_text())["night"]) if path.is_file() else None
