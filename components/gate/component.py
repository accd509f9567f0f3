"""Component `gate`: decide whether a student is good enough to be promoted."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(
    config: str,
    task: str,
    workspace: str,
    evaluation: str,
    metrics: dsl.Output[dsl.Metrics],
    parent_run: str = "",
    label: str = "",
) -> str:
    """Decide whether a student is good enough, and give the reasons.

    Checks the accuracy floor by paired bootstrap, the speed-up floor by paired latency, and parity.

    Args:
        config: JSON of the stage's configuration: the limits; `off`: nothing passes.
        task: JSON of the task, with the digest that `resolve` pinned.
        workspace: Where entries live: a directory or the URI of a store.
        evaluation: Entry of `evaluate`.
        metrics: The numbers of the stage's report.
        parent_run: MLflow run that gets this stage's child run; empty: found by the environment.
        label: Name of the budget, shown in MLflow and in the log.

    Returns:
        JSON of a candidate for `promote`: ref, passed, label, evaluation.
    """
    from components.outputs import candidate, keep
    from deploy.step import run_step

    done = run_step(
        "gate",
        config=config,
        parents={"evaluation": evaluation},
        task=task,
        workspace=workspace,
        parent_run=parent_run,
        label=label,
        when_off="",
    )
    keep("gate", done, label=label, metrics=metrics)
    return candidate(done, label=label, evaluation=evaluation)
