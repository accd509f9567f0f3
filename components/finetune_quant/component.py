"""Component `finetune_quant`: train a model so that eight-bit weights and activations cost it little."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def finetune_quant(  # noqa: PLR0913
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
    """Train a model so that eight-bit weights and activations cost it little.

    The structure stays; the weights become friendlier to quantization.

    Args:
        config: JSON of the stage's configuration, or `off` to pass the model through.
        task: JSON of the task, with the digest that `resolve` pinned.
        workspace: Where entries live: a folder that all steps share.
        model: Entry to train.
        teacher: Entry to learn from while doing so.
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
        "finetune_quant",
        config=config,
        parents={"model": model, "teacher": teacher},
        task=task,
        workspace=workspace,
        parent_run=parent_run,
        label=label,
    )
    return keep("finetune_quant", done, label=label, metrics=metrics, pointer=pointer)
