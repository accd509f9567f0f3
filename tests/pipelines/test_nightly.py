"""The nightly pipeline's committed representation: one task looks, everything behind it is cached on what it saw."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pipelines import compile as compiling

SPEC, PLATFORM = yaml.safe_load_all(compiling.committed("nightly").read_text())
STAGES = {"train", "search", "prune", "distill", "finetune-quant", "export", "cascade", "evaluate", "gate"}


def dags() -> dict[str, dict[str, Any]]:
    """Every part that holds tasks, by the name of its component."""
    return {"root": SPEC["root"], **{name: part for name, part in SPEC["components"].items() if "dag" in part}}


def tasks() -> dict[str, dict[str, Any]]:
    return {name: task for part in dags().values() for name, task in part["dag"]["tasks"].items()}


def test_the_committed_representation_is_not_stale() -> None:
    assert compiling.drift(compiling.committed("nightly"), "nightly") == ""


def test_check_looks_at_both(tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(compiling, "FOLDER", tmp_path)
    assert compiling.main([]) == 0
    assert compiling.main(["--check"]) == 0
    path = tmp_path / "nightly.yaml"
    path.write_text(path.read_text().replace("is_new", "is_old"))
    assert compiling.main(["--check"]) == 1
    assert "nightly.yaml is not what the pipeline compiles to" in capsys.readouterr().err


def test_looking_is_never_cached_and_stages_are() -> None:
    def is_cached(task: dict[str, Any]) -> bool:
        return bool(task.get("cachingOptions", {}).get("enableCache"))

    assert not is_cached(tasks()["tonight"])
    executed = {name for name, task in tasks().items() if task["componentRef"]["name"].removeprefix("comp-") in names()}
    assert {name for name in executed if is_cached(tasks()[name])} == STAGES


def names() -> set[str]:
    return {name.removeprefix("exec-") for name in SPEC["deploymentSpec"]["executors"]}


def test_everything_behind_it_hangs_on_what_it_found() -> None:
    handed = tasks()["secateur-nightly-night"]["inputs"]["parameters"]
    found = {
        name: given["taskOutputParameter"]["outputParameterKey"]
        for name, given in handed.items()
        if "taskOutputParameter" in given
    }
    assert found == {
        "is_new": "is_new",
        "task": "pinned_task",
        "teacher": "teacher_ref",
        "image": "pinned_image",
        "parent_run": "parent_run",
    }
    (changed,) = [part for part in dags().values() if "train" in part["dag"]["tasks"]]
    inner = changed["dag"]["tasks"]
    given = inner["train"]["inputs"]["parameters"]
    for name in ("task", "teacher", "pipelinechannel--image"):
        source = given[name]["componentInputParameter"]
        assert source.endswith(name.removeprefix("pipelinechannel--")), name
    assert given["parent_run"] == {"runtimeValue": {"constant": ""}}
    (students,) = [task for name, task in inner.items() if "students" in name]
    assert students["inputs"]["parameters"]["stage_run"] == {"runtimeValue": {"constant": ""}}
    for stage in STAGES - {"train"}:
        assert "pipelinechannel--image" in tasks()[stage]["inputs"]["parameters"], stage


def test_nothing_but_closing_happens_when_nothing_is_new() -> None:
    (condition,) = [task for task in tasks().values() if "is_new" in str(task.get("triggerPolicy", {}))]
    assert condition["triggerPolicy"]["condition"].endswith("== true")
    (body,) = [part for part in dags().values() if "tonight" in part["dag"]["tasks"]]
    assert set(body["dag"]["tasks"]) == {"tonight", "secateur-nightly-night"}
    (night,) = [part for part in dags().values() if condition in part["dag"]["tasks"].values()]
    assert len(night["dag"]["tasks"]) == 1, "nothing stands beside the condition"
    assert SPEC["root"]["dag"]["tasks"]["close-run"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_credentials_come_by_the_names_that_the_run_gives() -> None:
    for name, executor in PLATFORM["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items():
        secret, addresses = executor["secretAsEnv"][0], executor["configMapAsEnv"][0]
        assert "secret" in secret["secretNameParameter"]["componentInputParameter"], name
        assert "config_map" in addresses["configMapNameParameter"]["componentInputParameter"], name
        assert secret["optional"] is addresses["optional"] is True
