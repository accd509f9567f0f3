"""What `kfp.local` prints, read into steps: which task ran, for which budget, how long, and how it ended."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from components.outputs import PREFIX

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
STARTED = re.compile(r"- INFO - Executing task '(?P<task>[^']+)'$")
ENDED = re.compile(r"Task '(?P<task>[^']+)' finished with status (?P<status>SUCCESS|FAILURE)")
PROGRESS = re.compile(r"^\S.*: \d+/\d+, \d+ s, about \d+ s left")
#: Kubeflow goes on after these, with a branch left out; here they are failures.
SWALLOWED = ("Condition evaluation failed", "Could not resolve", "Unknown iterator", "Unknown items type")
LABEL = re.compile(r'^"label": "(?P<label>[^"]*)",?$')
#: Kubeflow's own lines about a task; the arguments of the task follow the second.
NOISE, ARGUMENTS = "[KFP Executor", "Got executor_input:"


@dataclass
class Step:
    """One task that ran.

    Attributes:
        task: Kubeflow's name of the task.
        facts: What the component said: stage, label, ref, reused, folder, path …
        seconds: How long it took, the start of its process included.
        is_failed: Whether it failed.
        tail: Its last lines.
    """

    task: str
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    is_failed: bool = False
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=25))

    @property
    def stage(self) -> str:
        """The stage's name."""
        return str(self.facts.get("stage") or self.task.replace("-", "_"))

    @property
    def label(self) -> str:
        """Name of the budget, or empty."""
        return str(self.facts.get("label", ""))

    @property
    def is_off(self) -> bool:
        """Whether the stage was configured away: it answered with another stage's entry, or with none."""
        return "reused" in self.facts and not self.facts.get("folder")

    @property
    def error(self) -> str:
        """The exception's line, or the last line that was printed."""
        lines = [line.strip() for line in self.tail if line.strip()]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Infeasible|Diverged|Full)\b.*:", line)]
        return (errors or lines or ["it printed nothing"])[-1]


@dataclass
class Watch:
    """Reads lines; calls back when a step starts, moves on, and ends.

    Attributes:
        on_start: Called with a step that starts.
        on_progress: Called with a line about progress inside a step.
        on_end: Called with a step that ended.
        steps: Every step that ended, in order.
        swallowed: Lines about mistakes that Kubeflow passes over.
    """

    on_start: Callable[[Step], None] = lambda step: None
    on_progress: Callable[[str], None] = lambda line: None
    on_end: Callable[[Step], None] = lambda step: None
    steps: list[Step] = field(default_factory=list)
    swallowed: list[str] = field(default_factory=list)
    _current: Step | None = None
    _is_in_arguments: bool = False
    _start: float = 0.0

    def read(self, line: str) -> None:
        """Take in one line."""
        line = COLOUR.sub("", line.rstrip("\n"))
        if any(text in line for text in SWALLOWED):
            self.swallowed.append(line.strip())
        if found := STARTED.search(line):
            self._current, self._start = Step(found["task"]), time.monotonic()
            self.on_start(self._current)
        elif self._current is not None:
            self._inside(self._current, line)

    def _inside(self, step: Step, line: str) -> None:
        text = line.strip()
        if self._is_in_arguments:
            self._is_in_arguments = line != "    }"
            if found := LABEL.match(text):
                step.facts = {"label": found["label"]}
        elif found := ENDED.search(line):
            step.seconds = time.monotonic() - self._start
            step.is_failed = found["status"] == "FAILURE"
            self.steps.append(step)
            self._current = None
            self.on_end(step)
        elif text.startswith(PREFIX):
            step.facts = json.loads(text.removeprefix(PREFIX))
        elif PROGRESS.match(text):
            self.on_progress(text)
        elif text.startswith(NOISE):
            self._is_in_arguments = text.endswith(ARGUMENTS)
        elif text and line.startswith("    "):
            step.tail.append(line.removeprefix("    "))

    def of(self, stage: str) -> list[Step]:
        """Return the steps of one stage that did not fail."""
        return [step for step in self.steps if step.stage == stage and not step.is_failed]

    @property
    def failed(self) -> Step | None:
        """The first step that failed, or None."""
        return next((step for step in self.steps if step.is_failed), None)
