"""What every component does with the answer of its step: fill the outputs, and say so in one line of the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Begins the line that `announce` prints; `pipelines.local` reads it.
PREFIX = "secateur-step "
SHOWN = ("ref", "reused", "seconds", "folder", "path", "promoted", "version", "verdict", "pipeline_run", "is_new")


def keep(
    stage: str,
    done: Mapping[str, Any],
    *,
    label: str = "",
    metrics: Any = None,
    pointer: Any = None,
    page: Any = None,
) -> str:
    """Write a step's answer to the component's outputs.

    Args:
        stage: Name of the stage.
        done: Answer of `deploy.step`: ref, reused, report, folder, metrics; html for a page.
        label: Name of the budget that the step belongs to.
        metrics: `dsl.Output[dsl.Metrics]`, gets every finite number of `done["metrics"]`.
        pointer: `dsl.Output[dsl.Model]`, gets JSON that names the stored model.
        page: `dsl.Output[dsl.HTML]`, gets `done["html"]`.

    Returns:
        The entry's name, `done["ref"]`.
    """
    if metrics is not None:
        for name, value in done.get("metrics", {}).items():
            metrics.log_metric(name, float(value))
    if pointer is not None:
        facts = {"ref": done["ref"], "folder": done.get("folder", ""), "stage": stage, "label": label}
        _write(pointer.path, json.dumps(facts, indent=1, sort_keys=True) + "\n")
        pointer.metadata.update(facts)
    if page is not None:
        _write(page.path, done["html"])
    announce(stage, done, label=label)
    return str(done["ref"])


def announce(stage: str, done: Mapping[str, Any], *, label: str = "") -> None:
    """Print one line of JSON that says what the step did."""
    facts = {name: done[name] for name in SHOWN if name in done}
    print(PREFIX + json.dumps({"stage": stage, "label": label, **facts}, sort_keys=True), flush=True)


def candidate(done: Mapping[str, Any], *, label: str, evaluation: str) -> str:
    """Return a gate's answer as the JSON that `verdict` and `promote` read.

    >>> candidate({"ref": "gate-1", "report": {"passed": True}}, label="half", evaluation="evaluate-1")
    '{"evaluation": "evaluate-1", "label": "half", "passed": true, "ref": "gate-1"}'
    """
    passed = bool(done["report"].get("passed", False))
    return json.dumps({"ref": done["ref"], "passed": passed, "label": label, "evaluation": evaluation}, sort_keys=True)


def has_passed(candidates: list[str]) -> bool:
    """Return whether one of the candidates passed its gate.

    >>> has_passed(['{"passed": false}', '{"passed": true}'])
    True
    """
    return any(json.loads(item)["passed"] for item in candidates)


def _write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
