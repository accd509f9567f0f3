"""What kfp.local prints, read into steps."""

from pipelines.local import line_of
from pipelines.watch import Step, Watch

LOG = """\
12:00:00.000 - INFO - Running pipeline: \x1b[95m'p'\x1b[0m
12:00:00.100 - INFO - Executing task \x1b[96m'prune'\x1b[0m
12:00:00.101 - INFO - Streamed logs:

    [KFP Executor 2026-11-22 12:00:00,000 INFO]: Got executor_input:
    {
        "inputs": {
            "parameterValues": {
                "label": "half",
                "config": "{}"
            }
        }
    }
    prune: 2/4, 30 s, about 30 s left, loss 0.3
"""
PASSED = """\
    secateur-step {"label": "half", "ref": "prune-1", "reused": false, "stage": "prune", "folder": "/f"}
12:00:01.000 - INFO - Task \x1b[96m'prune'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
"""
FAILED = """\
    Traceback (most recent call last):
      File "x.py", line 1, in <module>
    compress.core.budget.Infeasible: no model fits macs <= 3: the smallest reachable is 5.

12:00:01.000 - ERROR - Task \x1b[96m'prune'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m
"""


def read(text: str) -> tuple[Watch, list[str]]:
    heard: list[str] = []
    watch = Watch(lambda step: heard.append(f"start {step.task}"), heard.append, lambda step: heard.append("end"))
    for line in text.splitlines(keepends=True):
        watch.read(line)
    return watch, heard


def test_a_step_that_passed():
    watch, heard = read(LOG + PASSED)
    (step,) = watch.steps
    assert heard == ["start prune", "prune: 2/4, 30 s, about 30 s left, loss 0.3", "end"]
    assert (step.stage, step.label, step.is_failed, step.is_off) == ("prune", "half", False, False)
    assert watch.of("prune") == [step]
    assert watch.failed is None
    assert line_of(step) == "  prune           half         ran        0.0 s  prune-1"


def test_a_step_that_failed_says_why_and_for_which_budget():
    watch, _ = read(LOG + FAILED)
    step = watch.failed
    assert step is not None
    assert step.label == "half"
    assert step.error == "compress.core.budget.Infeasible: no model fits macs <= 3: the smallest reachable is 5."
    assert step.tail[0] == "Traceback (most recent call last):"
    assert not any("inputs" in line for line in step.tail)
    assert watch.of("prune") == []
    assert "FAILED" in line_of(step)


def test_a_step_that_died_without_a_word():
    watch, _ = read(LOG.rpartition("    prune: 2/4")[0] + FAILED.splitlines()[-1] + "\n")
    assert watch.failed.error == "it printed nothing"


def test_a_stage_that_is_off():
    step = Step("search", facts={"stage": "search", "ref": "train-1", "reused": True, "folder": ""})
    assert step.is_off
    assert line_of(step).split() == ["search", "off", "0.0", "s", "train-1"]


def test_mistakes_that_kubeflow_passes_over_are_kept():
    watch, _ = read("12:00 - WARNING - Condition evaluation failed for \"x\": name 'x' is not defined\n")
    assert len(watch.swallowed) == 1
