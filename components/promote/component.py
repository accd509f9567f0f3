"""Component `promote`: move the registry's alias to the best student that passed."""

from typing import List  # noqa: UP035  (Kubeflow ships the function alone, with typing's names)

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    candidates: List[str],  # noqa: UP006
    workspace: str,
    model_name: str,
    metrics: dsl.Output[dsl.Metrics],
    tracking_uri: str = "",
    parent_run: str = "",
) -> str:
    """Register the best student that passed its gate and move the alias to it.

    Args:
        candidates: JSON of each budget's candidate, from `gate`.
        workspace: Where entries live: a folder that all steps share.
        model_name: Name of the registered model.
        metrics: The numbers of the promoted version.
        tracking_uri: MLflow server; empty: from the environment, or a file in the workspace.
        parent_run: MLflow run of the pipeline; empty: found by the environment.

    Returns:
        Name of the entry in the store.
    """
    import json

    from components.outputs import keep
    from deploy.conclude import promote_step

    done = promote_step(
        [json.loads(item) for item in candidates],
        workspace=workspace,
        parent_run=parent_run,
        model_name=model_name,
        tracking_uri=tracking_uri,
    )
    return keep("promote", done, metrics=metrics)
