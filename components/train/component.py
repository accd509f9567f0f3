"""Component `train`: train the large network, the teacher."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    config: str,
    task: str,
    workspace: str,
    pointer: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    teacher: str = "",
    parent_run: str = "",
    label: str = "teacher",
) -> str:
    """Train the large network, unless one is given.

    A given teacher is passed through, so that the stages behind have one place to look.

    Args:
        config: JSON of the stage's configuration.
        task: JSON of the task, with the digest that `resolve` pinned.
        workspace: Where entries live: a folder that all steps share.
        pointer: JSON that names the stored model.
        metrics: The numbers of the stage's report.
        teacher: Entry to use instead of training one; empty: train.
        parent_run: MLflow run that gets this stage's child run; empty: found by the environment.
        label: Name shown in MLflow and in the log.

    Returns:
        Name of the entry in the store.
    """
    from components.outputs import keep
    from deploy.step import run_step

    done = run_step(
        "train",
        config="off" if teacher else config,
        parents={"model": teacher} if teacher else {},
        task=task,
        workspace=workspace,
        parent_run=parent_run,
        label=label,
    )
    return keep("train", done, label=label, metrics=metrics, pointer=pointer)
