"""The pipeline: from a task and a teacher to the best student that passed, and a page about all of them.

resolve -> train -> for each budget (search -> prune -> distill -> finetune_quant -> export and cascade
-> evaluate -> gate) -> promote, if one passed -> report; whatever happens, the run is closed at last.

The loop stands in a pipeline of its own: `kfp.local` hands the loop's item to every input of a loop
that comes from a task beside it, and inputs of an enclosing pipeline are the way around.
"""

from typing import Any, List  # noqa: UP035

from kfp import dsl

from components.cascade.component import cascade
from components.close_run.component import close_run
from components.distill.component import distill
from components.evaluate.component import evaluate
from components.export.component import export
from components.finetune_quant.component import finetune_quant
from components.gate.component import gate
from components.image import IMAGE
from components.promote.component import promote
from components.prune.component import prune
from components.report.component import report
from components.resolve.component import resolve
from components.search.component import search
from components.train.component import train
from components.verdict.component import verdict
from pipelines.placement import CLUSTER, MOUNT, Placement, place, place_heavy

NAME = "secateur-compress"
GPU = "nvidia.com/gpu"


def students_of(placement: Placement) -> Any:
    """Return the part of the pipeline that makes, judges, promotes and shows one student a budget."""

    @dsl.pipeline(name=f"{NAME}-students")
    def students(  # noqa: PLR0913
        teacher: str,
        task: str,
        budgets: List[dict],  # noqa: UP006
        workspace: str,
        model_name: str,
        tracking_uri: str,
        parent_run: str,
        stage_run: str,
        gpu_type: str = GPU,
        gpu_limit: str = "0",
        node_selector: dict = {},  # noqa: B006
        tolerations: list = [],  # noqa: B006
        image: str = IMAGE,
        config_map: str = "secateur",
        secret: str = "secateur",
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

        def heavy(task: Any) -> Any:
            return place_heavy(task, placement, cluster).outputs["Output"]

        with dsl.ParallelFor(budgets, parallelism=placement.parallelism) as budget:
            label = budget.__getattr__("name")  # `budget.name` is the loop's own name
            of = {"task": task, "workspace": workspace, "parent_run": stage_run, "label": label}
            found = heavy(search(config=budget.search, model=teacher, reference=teacher, **of))
            cut = heavy(prune(config=budget.prune, model=found, reference=teacher, **of))
            taught = heavy(distill(config=budget.distill, model=cut, teacher=teacher, **of))
            tuned = heavy(finetune_quant(config=budget.finetune_quant, model=taught, teacher=teacher, **of))
            exported = heavy(export(config=budget.export, model=tuned, **of))
            pair = heavy(cascade(config=budget.cascade, model=tuned, teacher=teacher, **of))
            measured = heavy(evaluate(config=budget.evaluate, model=exported, teacher=teacher, cascade=pair, **of))
            judged = place(gate(config=budget.gate, evaluation=measured, **of), placement, cluster, is_cached=True)

        def candidates() -> Any:
            """A new object each time: the compiler rewrites the one that it is given."""
            return dsl.Collected(judged.outputs["Output"])

        at = {"workspace": workspace, "parent_run": parent_run}
        passed = place(verdict(candidates=candidates()), placement, cluster)
        with dsl.If(passed.output == True, name="passed"):  # noqa: E712
            chosen = promote(candidates=candidates(), model_name=model_name, tracking_uri=tracking_uri, **at)
            place(chosen, placement, cluster)
            shown = report(candidates=candidates(), teacher=teacher, promotion=chosen.outputs["Output"], **at)
            place(shown, placement, cluster)
        with dsl.Else(name="refused"):
            place(report(candidates=candidates(), teacher=teacher, **at), placement, cluster)

    return students


def build(placement: Placement = CLUSTER) -> Any:
    """Return the pipeline, compiled for `placement`."""
    students = students_of(placement)

    @dsl.pipeline(name=NAME, description="Compress a vision model, measure what it gained, promote it if it passed.")
    def compress(  # noqa: PLR0913
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
        """Compress a vision model.

        Args:
            task: Name or JSON of a task.
            budgets: For each student its name and, as JSON texts or `off`, the configurations of search, prune,
                distill, finetune_quant, export, cascade, evaluate and gate.
            train_config: JSON of the teacher's training.
            teacher: Entry, alias or registered version; empty: train one.
            model_name: Name in the registry.
            run_name: Name of the run in MLflow.
            workspace: Folder that all tasks share.
            tracking_uri: MLflow server; empty: MLFLOW_TRACKING_URI, or a file in the workspace.
            gpu_type: Resource name of the accelerator, for the heavy stages.
            gpu_limit: Accelerators a heavy stage.
            node_selector: Labels of the nodes for the heavy stages.
            tolerations: Taints that the heavy stages tolerate.
            image: Image of every task, best with a digest; Kubeflow caches on its name.
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
        closing = close_run(
            pipeline_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER, workspace=workspace, tracking_uri=tracking_uri
        )
        place(closing, placement, cluster)
        with dsl.ExitHandler(closing, name="run"):
            pinned = resolve(
                task=task,
                teacher=teacher,
                workspace=workspace,
                budgets=budgets,
                run_name=run_name,
                tracking_uri=tracking_uri,
                pipeline_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            )
            place(pinned, placement, cluster)
            parent_run = pinned.outputs["parent_run"]
            stage_run = "" if placement.is_cached else parent_run
            large = train(
                config=train_config,
                task=pinned.outputs["pinned_task"],
                workspace=workspace,
                teacher=pinned.outputs["teacher_ref"],
                parent_run=stage_run,
            )
            place_heavy(large, placement, cluster)
            students(
                teacher=large.outputs["Output"],
                task=pinned.outputs["pinned_task"],
                budgets=budgets,
                workspace=workspace,
                model_name=model_name,
                tracking_uri=tracking_uri,
                parent_run=parent_run,
                stage_run=stage_run,
                **cluster,
            )

    return compress


pipeline = build()
