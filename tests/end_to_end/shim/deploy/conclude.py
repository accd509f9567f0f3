"""What stands around the stages, remembered and answered at once."""

import json
from pathlib import Path

from deploy.step import note


def resolve(task, teacher, workspace, budgets, run_name, tracking_uri, pipeline_run):
    """Pin a made-up digest."""
    note(workspace, "resolve", task=task, teacher=teacher, budgets=budgets, pipeline_run=pipeline_run)
    return {"task": f"{task}@1", "teacher_ref": teacher, "parent_run": "run-1", "data_digest": "d"}


def promote_step(candidates, *, workspace, parent_run, model_name, tracking_uri):
    """Promote the first candidate that passed."""
    note(workspace, "promote", candidates=candidates, parent_run=parent_run, model_name=model_name)
    best = next(item for item in candidates if item["passed"])
    return {
        "ref": f"promote-of-{best['ref']}",
        "promoted": True,
        "version": "1",
        "verdict": f"{best['label']}: version 1 is the champion",
        "metrics": {},
    }


def report_step(refs, *, workspace, parent_run):
    """Write an empty page."""
    note(workspace, "report", refs=json.loads(refs), parent_run=parent_run)
    path = Path(workspace) / "report.html"
    path.write_text("<html></html>")
    return {"path": str(path), "html": "<html></html>"}


def close_run(pipeline_run, *, workspace, tracking_uri, status, error):
    """Note the status."""
    note(workspace, "close_run", pipeline_run=pipeline_run, status=status, error=error)
    return {}
