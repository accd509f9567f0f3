"""Component `resolve`: turn names that move into values that stay."""

from typing import List, NamedTuple  # noqa: UP035  (Kubeflow ships the function alone, with typing's names)

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def resolve(
    task: str,
    workspace: str,
    budgets: List[dict],  # noqa: UP006
    teacher: str = "",
    run_name: str = "",
    tracking_uri: str = "",
    pipeline_run: str = "",
) -> NamedTuple("Resolved", [("pinned_task", str), ("teacher_ref", str), ("parent_run", str), ("data_digest", str)]):  # type: ignore[valid-type]
    """Pin the data's digest and the teacher's version, and open the run in MLflow.

    The only task that is never cached: everything behind it is cached on what it returns,
    so a nightly run does work exactly when the teacher or the data changed.

    Args:
        task: Name or JSON of a task.
        workspace: Where entries live: a folder that all steps share.
        budgets: Name and stage configurations of each student.
        teacher: Entry, alias or registered version (`models:/net@champion`); empty: train one.
        run_name: Name of the parent run.
        tracking_uri: MLflow server; empty: from the environment, or a file in the workspace.
        pipeline_run: Identity of the pipeline run, a tag of the parent run.

    Returns:
        pinned_task: JSON of the task with its digest.
        teacher_ref: Entry of the teacher, or empty.
        parent_run: MLflow run of the pipeline, or empty.
        data_digest: SHA-256 of the data and of the rules of the split.
    """
    import json

    from components.outputs import announce
    from deploy.conclude import resolve as pin

    found = pin(task, teacher, workspace, json.dumps(budgets, sort_keys=True), run_name, tracking_uri, pipeline_run)
    announce("resolve", {**found, "pipeline_run": pipeline_run})
    return (found["task"], found["teacher_ref"], found["parent_run"], found["data_digest"])
