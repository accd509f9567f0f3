"""Component `report`: one page that shows what the run has made."""

from typing import List  # noqa: UP035  (Kubeflow ships the function alone, with typing's names)

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    candidates: List[str],  # noqa: UP006
    teacher: str,
    workspace: str,
    page: dsl.Output[dsl.HTML],
    promotion: str = "",
    parent_run: str = "",
) -> str:
    """Draw one self-contained page over every student of the run.

    Args:
        candidates: JSON of each budget's candidate, from `gate`.
        teacher: Entry of the teacher.
        workspace: Where entries live: a folder that all steps share.
        page: The page, shown by Kubeflow's UI.
        promotion: Entry of `promote`; empty: nothing was promoted.
        parent_run: MLflow run that gets the page; empty: found by the environment.

    Returns:
        Path of the page in the workspace.
    """
    import json

    from components.outputs import keep
    from deploy.conclude import report_step

    refs = {"teacher": teacher, "candidates": [json.loads(item) for item in candidates], "promotion": promotion}
    done = report_step(json.dumps(refs, sort_keys=True), workspace=workspace, parent_run=parent_run)
    keep("report", {"ref": "", **done}, page=page)
    return str(done["path"])
