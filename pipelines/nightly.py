"""The nightly pipeline: look what changed, and compress again only if something did.

tonight (never cached) -> if it is new: train -> the students of `pipelines.compress`; whatever happens, the run
is closed at last. All that stands behind `tonight` gets the concrete values that it returns (the teacher's entry,
the data's digest, the image by its digest), so Kubeflow's cache answers for exactly what did not change.

The condition stands in a pipeline of its own: `kfp.local` reads a named output of a task only as an input.
"""

from typing import Any, List  # noqa: UP035

from kfp import dsl

from components.close_run.component import close_run
from components.image import IMAGE
from components.tonight.component import tonight
from components.train.component import train
from pipelines.compress import GPU, students_of
from pipelines.placement import CLUSTER, MOUNT, Placement, place, place_heavy

NAME = "secateur-nightly"


def night_of(placement: Placement) -> Any:
    """Return the part of the pipeline that works when something is new."""
    students = students_of(placement)

    @dsl.pipeline(name=f"{NAME}-night")
    def night(  # noqa: PLR0913
        is_new: bool,
        task: str,
        budgets: List[dict],  # noqa: UP006
        train_config: str,
        teacher: str,
        model_name: str,
        workspace: str,
        tracking_uri: str,
        parent_run: str,
        gpu_type: str,
        gpu_limit: str,
        node_selector: dict,
        tolerations: list,
        image: str,
        config_map: str,
        secret: str,
    ) -> None:
        cluster = {
            "gpu_type": gpu_type,
            "gpu_limit": gpu_limit,
            "node_selector": node_selector,
            "tolerations": tolerations,
            "image": image,
            "config_map": config_map,
            "secret": secret,
        }
        stage_run = "" if placement.is_cached else parent_run
        with dsl.If(is_new == True, name="changed"):  # noqa: E712
            at = {"task": task, "workspace": workspace}
            large = train(config=train_config, teacher=teacher, parent_run=stage_run, **at)
            place_heavy(large, placement, cluster)
            students(
                teacher=large.outputs["Output"],
                budgets=budgets,
                model_name=model_name,
                tracking_uri=tracking_uri,
                parent_run=parent_run,
                stage_run=stage_run,
                **at,
                **cluster,
            )

    return night


def build(placement: Placement = CLUSTER) -> Any:
    """Return the pipeline, compiled for `placement`."""
    night = night_of(placement)

    @dsl.pipeline(name=NAME, description="Compress again what changed since the last night; nothing changed: say so.")
    def nightly(  # noqa: PLR0913
        task: str,
        budgets: List[dict],  # noqa: UP006
        train_config: str = "{}",
        teacher: str = "",
        model_name: str = "secateur",
        run_name: str = "",
        workspace: str = MOUNT,
        tracking_uri: str = "",
        gpu_type: str = GPU,
        gpu_limit: str = "0",
        node_selector: dict = {},  # noqa: B006
        tolerations: list = [],  # noqa: B006
        image: str = IMAGE,
        config_map: str = "secateur",
        secret: str = "secateur",
    ) -> None:
        """Compress again what changed since the last night.

        Args:
            task: Name or JSON of a task.
            budgets: For each student its name and, as JSON texts or `off`, the configurations of its stages.
            train_config: JSON of the teacher's training, if one is trained.
            teacher: Entry, alias or registered version, such as `models:/flowers@champion`; empty: train one.
            model_name: Name in the registry, not that of a teacher that is champion there; nights of one name are
                compared with each other.
            run_name: Name of the run in MLflow.
            workspace: Folder that all tasks share.
            tracking_uri: MLflow server; empty: MLFLOW_TRACKING_URI, or a file in the workspace.
            gpu_type: Resource name of the accelerator, for the heavy stages.
            gpu_limit: Accelerators a heavy stage.
            node_selector: Labels of the nodes for the heavy stages.
            tolerations: Taints that the heavy stages tolerate.
            image: Image of every task, best with a digest.
            config_map: ConfigMap with MLFLOW_TRACKING_URI and AWS_ENDPOINT_URL; it may be missing.
            secret: Secret with the credentials of MLflow and S3 (`pipelines/placement.py`); it may be missing.
        """
        cluster = {
            "gpu_type": gpu_type,
            "gpu_limit": gpu_limit,
            "node_selector": node_selector,
            "tolerations": tolerations,
            "image": image,
            "config_map": config_map,
            "secret": secret,
        }
        at = {"workspace": workspace, "tracking_uri": tracking_uri, "pipeline_run": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        closing = place(close_run(**at), placement, cluster)
        with dsl.ExitHandler(closing, name="run"):
            looked = tonight(
                task=task,
                teacher=teacher,
                budgets=budgets,
                train_config=train_config,
                image=image,
                model_name=model_name,
                run_name=run_name,
                **at,
            )
            place(looked, placement, cluster)
            night(
                is_new=looked.outputs["is_new"],
                task=looked.outputs["pinned_task"],
                budgets=budgets,
                train_config=train_config,
                teacher=looked.outputs["teacher_ref"],
                model_name=model_name,
                workspace=workspace,
                tracking_uri=tracking_uri,
                parent_run=looked.outputs["parent_run"],
                **cluster | {"image": looked.outputs["pinned_image"]},
            )

    return nightly


pipeline = build()
