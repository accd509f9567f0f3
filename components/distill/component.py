"""Component `distill`: train a small model on what a large one says about the same inputs."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def distill(  # noqa: PLR0913
    config: str,
    task: str,
    workspace: str,
    model: str,
    teacher: str,
    pointer: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    parent_run: str = "",
    label: str = "",
) -> str:
    """Train a small model on what a large one says about the same inputs.

    Starts from the student's weights and keeps its structure.

    Args:
        config: JSON of the stage's configuration, or `off` to pass the model through.
        task: JSON of the task, with the digest that `resolve` pinned.
        workspace: Where entries live: a folder that all steps share.
        model: Entry to train: the student.
        teacher: Entry to learn from.
        pointer: JSON that names the stored model.
        metrics: The numbers of the stage's report.
        parent_run: MLflow run that gets this stage's child run; empty: found by the environment.
        label: Name of the budget, shown in MLflow and in the log.

    Returns:
        Name of the entry in the store.
    """
    from components.outputs import keep
    from deploy.step import run_step

    done = run_step(
        "distill",
        config=config,
        parents={"model": model, "teacher": teacher},
        task=task,
        workspace=workspace,
        parent_run=parent_run,
        label=label,
    )
    return keep("distill", done, label=label, metrics=metrics, pointer=pointer)
