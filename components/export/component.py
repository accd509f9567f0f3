"""Component `export`: write a model as ONNX, as quantized ONNX, and as a TensorRT engine where there is one."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def export(
    config: str,
    task: str,
    workspace: str,
    model: str,
    pointer: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    parent_run: str = "",
    label: str = "",
) -> str:
    """Write a model as ONNX, as quantized ONNX, and as a TensorRT engine where there is one.

    A quantized file that is slower or worse is refused, with its reason in the report.

    Args:
        config: JSON of the stage's configuration, or `off` to pass the model through.
        task: JSON of the task, with the digest that `resolve` pinned.
        workspace: Where entries live: a folder that all steps share.
        model: Entry to export.
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
        "export",
        config=config,
        parents={"model": model},
        task=task,
        workspace=workspace,
        parent_run=parent_run,
        label=label,
    )
    return keep("export", done, label=label, metrics=metrics, pointer=pointer)
