"""Component `close_run`: the exit task that always closes the run in MLflow."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def close_run(
    pipeline_run: str,
    workspace: str,
    status: dsl.PipelineTaskFinalStatus,
    tracking_uri: str = "",
) -> None:
    """Close the run in MLflow with a verdict, whatever happened before.

    Args:
        pipeline_run: Identity of the pipeline run, a tag of the parent run.
        workspace: Where entries live: a folder that all steps share.
        status: How the tasks before ended; Kubeflow fills it.
        tracking_uri: MLflow server; empty: from the environment, or a file in the workspace.
    """
    from components.outputs import announce
    from deploy.conclude import close_run as close

    done = close(
        pipeline_run,
        workspace=workspace,
        tracking_uri=tracking_uri,
        status=status.state,
        error=status.error_message or "",
    )
    announce("close_run", done or {})
