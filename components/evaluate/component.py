"""Component `evaluate`: measure accuracy on test data, every cost, parity and paired latency."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(  # noqa: PLR0913
    config: str,
    task: str,
    workspace: str,
    model: str,
    teacher: str,
    cascade: str,
    metrics: dsl.Output[dsl.Metrics],
    parent_run: str = "",
    label: str = "",
) -> str:
    """Measure accuracy on test data, every cost, parity and paired latency.

    The only stage that reads test data.

    Args:
        config: JSON of the stage's configuration.
        task: JSON of the task, with the digest that `resolve` pinned.
        workspace: Where entries live: a folder that all steps share.
        model: Exported entry of the student.
        teacher: Entry to compare with.
        cascade: Entry of the cascade; empty: none.
        metrics: The numbers of the stage's report.
        parent_run: MLflow run that gets this stage's child run; empty: found by the environment.
        label: Name of the budget, shown in MLflow and in the log.

    Returns:
        Name of the entry in the store.
    """
    from components.outputs import keep
    from deploy.step import run_step

    done = run_step(
        "evaluate",
        config=config,
        parents={"model": model, "teacher": teacher, "cascade": cascade},
        task=task,
        workspace=workspace,
        parent_run=parent_run,
        label=label,
        when_off="",
    )
    return keep("evaluate", done, label=label, metrics=metrics)
