"""What the components around the stages call: open the run, promote, write the page, close the run.

They change what others see, so they are never cached; each of them may be repeated.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.layout import write_json
from compress.core.stage import Ref
from deploy.step import open_store, state_path, states_of, workspace_folder
from deploy.worker import delegated

if TYPE_CHECKING:
    from deploy.mlflow_store import MlflowStore
    from deploy.report import ReportData

log = logging.getLogger("secateur.mlflow")

#: Name of the alias behind a registered model's name that a teacher may be given by.
REGISTERED = "models:/"
#: Stages without which there is no verdict.
NEEDED = ("export", "evaluate", "gate")


@delegated
def resolve(
    task: str,
    teacher: str,
    workspace: str,
    budgets: str,
    run_name: str,
    tracking_uri: str,
    pipeline_run: str,
) -> dict[str, str]:
    """Pin the data and the teacher, check every configuration, and open the run of the pipeline.

    Args:
        task: Name or JSON of a task.
        teacher: Entry, alias or "models:/name@alias"; empty to train one.
        workspace: Folder of the local store.
        budgets: JSON list: name and stage configurations of each student.
        run_name: Name of the run in MLflow.
        tracking_uri: MLflow; empty for the environment's, or a file in the workspace.
        pipeline_run: Identity of this run of the pipeline.

    Returns:
        task (JSON of piece and digest), teacher_ref, parent_run, data_digest.

    Raises:
        ValueError: A task, teacher, option or piece that does not exist; before any work is spent.
    """
    from compress.run import task_of
    from deploy.mlflow_store import flush
    from deploy.tracking import open_parent

    found = task_of(task)
    students = json.loads(budgets)
    check_students(students)
    store = open_store(workspace, tracking_uri=tracking_uri)
    flush(store)
    teacher_ref = _teacher(store, teacher) if teacher else ""
    if teacher_ref:
        found.check_fits(store.get(Ref(teacher_ref)).model.input)
    parent_run = open_parent(
        store.uri,
        f"secateur-{found.name}",
        run_name or f"compress-{found.name}",
        {"kfp.run_id": pipeline_run, "secateur.task": found.name, "secateur.data_digest": found.digest},
        pending=store.pending,
    )
    names = [student["name"] for student in students]
    state = {"parent_run": parent_run, "uri": store.uri, "task": found.name, "students": names, "verdict": "error"}
    write_json(state_path(workspace, pipeline_run), state)
    pinned = json.dumps(found.identity(), sort_keys=True)
    return {"task": pinned, "teacher_ref": teacher_ref, "parent_run": parent_run, "data_digest": found.digest}


def _teacher(store: MlflowStore, name: str) -> Ref:
    """Return a teacher's entry; `models:/…` asks the registry first, for aliases move elsewhere while entries stay.

    What the registry does not know, or cannot be asked for, is what the workspace calls so; the log says it.
    """
    from compress.core.registry import UnknownName
    from deploy.tracking import Unreachable

    plain = name.removeprefix(REGISTERED)
    if plain == name or "@" not in plain:
        return store.resolve(plain)
    try:
        return store.registered(plain)
    except (UnknownName, Unreachable) as error:
        try:
            here = store.local.resolve(plain)
        except UnknownName:
            raise error from None
        log.warning("%s Going on with what this workspace calls %s: %s.", error, plain, here)
        return here


def check_students(students: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError for a student whose name is not unique or whose configurations do not parse."""
    from compress import catalogue
    from compress.core.registry import UnknownName
    from compress.core.stage import STAGES

    catalogue.load()
    names = [student.get("name", "") for student in students]
    if not all(names) or len(set(names)) != len(names):
        raise ValueError(f"budgets: every student needs a name of its own; got {names}.")
    for student in students:
        for stage, config in student.items():
            if stage == "name":
                continue
            if config == "off" and stage in NEEDED:
                raise ValueError(f"budget {student['name']!r}: {stage} cannot be off; the verdict is made of it.")
            if config == "off":
                continue
            if stage not in STAGES:
                raise UnknownName.among(f"stage in budget {student['name']!r}:", stage, STAGES)
            STAGES[stage].extra["config"].from_json(config)


@delegated
def promote_step(
    candidates: Sequence[Mapping[str, Any]],
    *,
    workspace: str,
    parent_run: str,
    model_name: str,
    tracking_uri: str,
) -> dict[str, Any]:
    """Promote the candidate with the largest measured speed-up among those that passed their gate.

    Args:
        candidates: Answers of the gates: ref, passed, label, evaluation.
        workspace: Folder of the local store.
        parent_run: MLflow run of the pipeline.
        model_name: Registered model that gets the version.
        tracking_uri: MLflow; empty for the environment's, or a file in the workspace.

    Returns:
        ref of the promoted export, promoted, version, verdict, metrics and what `deploy.promote` says.
    """
    from compress import catalogue
    from deploy.promote import Under, promote
    from deploy.tracking import metrics_of

    catalogue.load()
    store = open_store(workspace, tracking_uri=tracking_uri, parent_run=parent_run)
    passed = [candidate for candidate in candidates if candidate["passed"]]
    if not passed:
        return {"ref": "", "promoted": False, "version": "", "verdict": "no student passed its gate", "metrics": {}}
    best = max(passed, key=lambda candidate: measured_speedup(store, candidate))
    evaluation = store.record(best["evaluation"])
    parents = evaluation["identity"]["parents"]
    cascade, under = parents.get("cascade"), Under(parent_run=parent_run)
    answer = promote(store, store.uri, model_name, parents["model"], best["ref"], cascade, under=under)
    said = "; ".join(answer["reasons"]) or f"version {answer['version']} is the champion"
    verdict = f"{best['label']}: {said}"
    _remember(workspace, parent_run, {"promotion": answer})
    metrics = metrics_of(evaluation["report"])
    return {"ref": parents["model"], "verdict": verdict, "metrics": metrics, **answer}


def measured_speedup(store: MlflowStore, candidate: Mapping[str, Any]) -> float:
    """Return the paired speed-up by which the candidate's gate judged it."""
    gate = store.record(candidate["ref"])
    checks = {check["name"]: check for check in gate["report"]["checks"]}
    return float(checks["speedup"]["value"] or 0.0)


@delegated
def report_step(refs: str, *, workspace: str, parent_run: str) -> dict[str, Any]:
    """Write the page about all students.

    Args:
        refs: JSON: teacher (entry), candidates (answers of the gates).
        workspace: Folder of the local store; the page is written into its `reports`.
        parent_run: MLflow run of the pipeline.

    Returns:
        path of the page, html (its text).
    """
    given = json.loads(refs)
    path = workspace_folder(workspace) / "reports" / (parent_run or "latest") / "index.html"
    passed = any(candidate["passed"] for candidate in given["candidates"])
    facts = {"parent_run": parent_run, "report": str(path), "verdict": "pass" if passed else "fail"}
    facts |= {"candidates": given["candidates"], "teacher": given["teacher"]}
    _remember(workspace, parent_run, facts)
    from deploy.report import write_page

    store = open_store(workspace, parent_run=parent_run)
    write_page(_gathered(store, _recall(workspace, parent_run) | facts), path)
    return {"path": str(path), "html": path.read_text()}


@delegated
def close_run(pipeline_run: str, *, workspace: str, tracking_uri: str, status: str, error: str) -> dict[str, Any]:
    """Close the run of the pipeline with a verdict, whatever happened.

    Args:
        pipeline_run: Identity of this run of the pipeline.
        workspace: Folder of the local store.
        tracking_uri: MLflow; empty for the environment's, or a file in the workspace.
        status: State of the pipeline as Kubeflow calls it ("SUCCEEDED", "FAILED", …).
        error: Message of what failed, or empty.

    Returns:
        verdict ("pass", "fail", "unchanged" or "error") and path of the page.
    """
    from deploy.mlflow_store import flush
    from deploy.night import UNCHANGED, remember_night
    from deploy.report import final_metrics, note_markdown
    from deploy.tracking import close_parent

    opened = state_path(workspace, pipeline_run)
    if not opened.is_file():
        return {"verdict": "error", "path": ""}
    state = json.loads(opened.read_text())
    is_idle = state["verdict"] == UNCHANGED
    is_done = status.upper() == "SUCCEEDED" and ("report" in state or is_idle)
    store = open_store(workspace, tracking_uri=tracking_uri or state["uri"])
    flush(store)
    try:
        data = _gathered(store, state) if "report" in state else None
    except (KeyError, ValueError, OSError) as trouble:
        data, error = None, f"{error}\nThe page could not be written: {trouble}".strip()
    idle = "Nothing changed since the last night: nothing was trained, the champion stays."
    early = "The pipeline ended before anything was judged. The champion is what it was before."
    note = note_markdown(data) if data else idle if is_done and is_idle else early
    verdict = state["verdict"] if is_done else "error"
    if is_done:
        remember_night(workspace, state)
    pages = sorted(Path(state["report"]).parent.glob("[!.]*")) if data else []
    close_parent(
        store.uri,
        state["parent_run"],
        verdict=verdict,
        status="FINISHED" if is_done else "FAILED",
        metrics=final_metrics(data) if data else {},
        note_markdown=f"{note}\n\n```\n{error}\n```" if error else note,
        artifacts={f"report/{page.name}": page for page in pages},
        pending=store.pending,
    )
    return {"verdict": verdict, "path": state.get("report", "")}


def _gathered(store: MlflowStore, state: Mapping[str, Any]) -> ReportData:
    from deploy.promote import pull_commands
    from deploy.report import gather
    from deploy.tracking import ui_command

    promotion = state.get("promotion") or {}
    candidates = state["candidates"]
    refs = {
        "train": [state["teacher"]],
        "evaluate": [candidate["evaluation"] for candidate in candidates],
        "gate": [candidate["ref"] for candidate in candidates],
    }
    return gather(
        store,
        refs,
        labels={candidate["evaluation"]: candidate["label"] for candidate in candidates},
        promotion=promotion,
        pull=pull_commands(promotion["name"], store.uri) if promotion.get("promoted") else {},
        tracking={"uri": store.uri, "ui": ui_command(store.uri), "parent_run": state["parent_run"]},
    )


def _remember(workspace: str, parent_run: str, facts: Mapping[str, Any]) -> None:
    for path in states_of(workspace, parent_run):
        write_json(path, json.loads(path.read_text()) | dict(facts))


def _recall(workspace: str, parent_run: str) -> dict[str, Any]:
    found = states_of(workspace, parent_run)
    return json.loads(found[0].read_text()) if found else {}
