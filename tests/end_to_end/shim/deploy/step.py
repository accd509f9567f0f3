"""Steps that store small reports at once, and remember how they were called.

SHIM_FAILS names a stage that fails; SHIM_PASSED lists the budgets whose gate passes.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

MODELS = {
    "teacher": {"test_accuracy": 0.99, "interval": [0.98, 1.0], "macs": 1000.0},
    "student": {"test_accuracy": 0.985, "interval": [0.97, 0.99], "macs": 200.0},
    "int8": {"test_accuracy": 0.98, "interval": [0.97, 0.99], "macs": 200.0},
}
LATENCY = {"latency/onnxruntime/b32": {"value": 2.5, "low": 2.4, "high": 2.6}}


def note(workspace, name, **facts):
    path = Path(workspace) / "calls.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"name": name, **facts}, sort_keys=True) + "\n")


def _report(stage, label):
    if stage == "evaluate":
        return {"models": MODELS, "ratios": {"student": {"macs": 5.0, **LATENCY}}}
    if stage == "gate":
        passed = label in os.environ.get("SHIM_PASSED", "").split(",")
        return {"passed": passed, "reasons": [] if passed else ["accuracy fell by 2.1 points, 1.0 is allowed"]}
    return {"validation_accuracy": 0.9}


def run_step(stage, *, config, parents, task, workspace, parent_run, label="", when_off="model"):
    """Store a report, or find it."""
    note(workspace, stage, config=config, parents=dict(parents), task=task, parent_run=parent_run, label=label)
    if config == "off":
        return {"ref": parents.get(when_off, ""), "reused": True, "report": {}, "folder": "", "metrics": {}}
    key = json.dumps([stage, config, sorted(parents.items()), task])
    ref = f"{stage}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    folder = Path(workspace) / "store" / "entries" / ref
    is_reused = (folder / "entry.json").is_file()
    if not is_reused:
        if os.environ.get("SHIM_FAILS") == stage:
            raise ValueError(f"{stage} cannot: write a smaller budget.")
        print(f"{stage}: 1/2, 15 s, about 15 s left", file=sys.stderr)
        folder.mkdir(parents=True)
        (folder / "entry.json").write_text(json.dumps({"report": _report(stage, label)}))
    report = json.loads((folder / "entry.json").read_text())["report"]
    return {"ref": ref, "reused": is_reused, "report": report, "folder": str(folder), "metrics": {"reused": is_reused}}
