"""Component `sensitivity`: cut every group and every block alone and measure what the model loses."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def sensitivity(
    config: str,
    task: str,
    workspace: str,
    model: str,
    metrics: dsl.Output[dsl.Metrics],
    parent_run: str = "",
    label: str = "",
) -> str:
    """Cut every group of channels and every block alone and measure what the model loses.

    The entry holds the curves as sensitivity.json; the model stays as it is.

    Args:
        config: JSON of the stage's configuration, or `off` for none.
        task: JSON of the task, with the digest that `resolve` pinned.
        workspace: Where entries live: a folder that all steps share.
        model: Entry to look at.
        metrics: The numbers of the stage's report.
        parent_run: MLflow run that gets this stage's child run; empty: found by the environment.
        label: Name of the budget, shown in MLflow and in the log.

    Returns:
        Name of the entry in the store.
    """
    from components.outputs import keep
    from deploy.step import run_step

    done = run_step(
        "sensitivity",
        config=config,
        parents={"model": model},
        task=task,
        workspace=workspace,
        parent_run=parent_run,
        label=label,
        when_off="",
    )
    return keep("sensitivity", done, label=label, metrics=metrics)
