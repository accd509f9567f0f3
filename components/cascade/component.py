"""Component `cascade`: let the small model answer what it is sure of, and the teacher the rest."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def cascade(
    config: str,
    task: str,
    workspace: str,
    model: str,
    teacher: str,
    metrics: dsl.Output[dsl.Metrics],
    parent_run: str = "",
    label: str = "",
) -> str:
    """Let the small model answer what it is sure of, and the teacher the rest.

    The threshold is calibrated on validation data for a cost or an accuracy.

    Args:
        config: JSON of the stage's configuration, or `off` for none.
        task: JSON of the task, with the digest that `resolve` pinned.
        workspace: Where entries live: a folder that all steps share.
        model: Entry that answers first.
        teacher: Entry that answers what is deferred.
        metrics: The numbers of the stage's report.
        parent_run: MLflow run that gets this stage's child run; empty: found by the environment.
        label: Name of the budget, shown in MLflow and in the log.

    Returns:
        Name of the entry in the store.
    """
    from components.outputs import keep
    from deploy.step import run_step

    done = run_step(
        "cascade",
        config=config,
        parents={"model": model, "teacher": teacher},
        task=task,
        workspace=workspace,
        parent_run=parent_run,
        label=label,
        when_off="",
    )
    return keep("cascade", done, label=label, metrics=metrics)
