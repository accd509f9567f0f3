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

    Accuracy: the loss against the teacher on the same test inputs, told with its 95 % interval by paired
    bootstrap. Rule `point` (the default) holds the measured loss against the limit; rule `lower_bound` holds the
    unfavourable end against it, the loss that 95 % of the bootstrap samples do not exceed. Speed: the lower end of
    the paired speed-up's 95 % interval. Parity: the largest difference of a logit. INT8 and cascade are extras:
    when they lose too much, or the cascade costs no less than the teacher, they are demoted.

    Args:
        config: JSON of the stage's configuration: the limits; `off`: nothing passes.
        task: JSON of the task, with the digest that `resolve` pinned.
        workspace: Where entries live: a folder that all steps share.
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
