"""Component `tonight`: what this night would be made of, and whether any of it is new."""

from typing import List, NamedTuple  # noqa: UP035  (Kubeflow ships the function alone, with typing's names)

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def tonight(  # noqa: PLR0913
    task: str,
    workspace: str,
    budgets: List[dict],  # noqa: UP006
    train_config: str = "{}",
    teacher: str = "",
    image: str = "",
    model_name: str = "secateur",
    run_name: str = "",
    tracking_uri: str = "",
    pipeline_run: str = "",
) -> NamedTuple("Tonight", [("pinned_task", str), ("teacher_ref", str), ("parent_run", str), ("pinned_image", str), ("changes", str), ("is_new", bool)]):  # type: ignore[valid-type]  # noqa: E501  # fmt: skip
    """Turn teacher alias, data, configuration and image into values that stay, and compare them with the last night's.

    Never cached: everything behind it is cached on what it returns. A night counts as the last one only if it ended
    with a verdict, so a night that failed is done again.

    Args:
        task: Name or JSON of a task.
        workspace: Where entries live: a folder that all steps share.
        budgets: Name and stage configurations of each student.
        train_config: JSON of the teacher's training, if one is trained.
        teacher: Entry, alias or registered version (`models:/net@champion`); empty: train one.
        image: Image of the tasks.
        model_name: Registered model that the night may promote; nights of one name are compared.
        run_name: Name of the parent run.
        tracking_uri: MLflow server; empty: from the environment, or a file in the workspace.
        pipeline_run: Identity of the pipeline run, a tag of the parent run.

    Returns:
        pinned_task: JSON of the task with its digest.
        teacher_ref: Entry of the teacher, or empty.
        parent_run: MLflow run of the pipeline, or empty.
        pinned_image: The image, by its digest where the environment tells it.
        changes: What differs from the last night, in words.
        is_new: Whether there is anything to do.
    """
    import json

    from components.outputs import announce
    from deploy.night import tonight as look

    given = {"task": task, "teacher": teacher, "workspace": workspace, "train_config": train_config, "image": image}
    given |= {"model_name": model_name, "run_name": run_name, "tracking_uri": tracking_uri}
    found = look(given, json.dumps(budgets, sort_keys=True), pipeline_run)
    announce("tonight", {**found, "pipeline_run": pipeline_run, "verdict": found["changes"]})
    kept = ("task", "teacher_ref", "parent_run", "image", "changes", "is_new")
    return tuple(found[name] for name in kept)
