"""What the report page shows, gathered and computed, free of files and markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Kinds of models, in the order in which they are shown; names are the keys of the report of `evaluate`.
KINDS = ("teacher", "student", "int8", "cascade")
KIND_NAMES = {"teacher": "Teacher", "student": "Student", "int8": "INT8", "cascade": "Cascade"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured model.

    Attributes:
        kind: One of KINDS.
        label: For people ("Student macs=0.25").
        budget: Label of the branch; "" for the teacher, and when there is only one.
        numbers: Its part of the report of `evaluate`: test_accuracy, interval, macs, latency_ms …
        ratios: Teacher ÷ this; above 1 is better.
        delta: Test accuracy minus the teacher's.
    """

    kind: str
    label: str
    budget: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    ratios: Mapping[str, Any] = field(default_factory=dict)
    delta: float | None = None

    @property
    def short(self) -> str:
        """Label in a chart, where colour and shape tell the kind: the budget when there are several."""
        return self.budget or self.label

    @property
    def accuracy(self) -> float | None:
        """Test accuracy, a part of one."""
        return self.numbers.get("test_accuracy")

    @property
    def interval(self) -> Sequence[float] | None:
        """95 % interval of the test accuracy."""
        return self.numbers.get("interval")

    def latency_ms(self, key: str) -> float | None:
        """Return the median latency under `key` ("onnxruntime/b32"), or None."""
        return (self.numbers.get("latency_ms") or {}).get(key)

    def speedup(self, key: str) -> Any:
        """Return the paired speed-up under `key` as {value, low, high}, or None."""
        return self.ratios.get(f"latency/{key}")


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage of a branch.

    Attributes:
        stage: Its name.
        ref: Its entry.
        options: Non-default configuration, as text.
        accuracy: Validation accuracy of its model.
        interval: 95 % interval of that accuracy, when the number of inputs is known.
        delta: That minus the accuracy of the stage before.
        steps: Accuracies within the stage ("after the cut", 0.31).
        cost: params, macs, size_bytes.
        seconds: How long it took.
        note: What the stage wants to say.
    """

    stage: str
    ref: str
    options: str = ""
    accuracy: float | None = None
    interval: Sequence[float] | None = None
    delta: float | None = None
    steps: Sequence[tuple[str, float]] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What one stage left of each group of channels."""

    stage: str
    kept: Mapping[str, Sequence[int]]
    dropped: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Everything that one budget led to; an absent report is an empty mapping."""

    label: str
    rows: Sequence[StageRow] = ()
    cuts: Sequence[Cut] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=dict)
    cascade: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    points: Sequence[Point] = ()

    @property
    def has_passed(self) -> bool | None:
        """The gate's verdict, None without a gate."""
        return bool(self.gate["passed"]) if "passed" in self.gate else None

    def speedup(self, key: str) -> float:
        """Return the paired speed-up that the gate judged the student by, else the one under `key`; 0 for none."""
        judged = [check.get("value") for check in self.gate.get("checks") or [] if check.get("name") == "speedup"]
        student = self.point("student")
        measured = (student.speedup(key) or {}).get("value") if student else None
        return float(next((value for value in (*judged, measured) if value is not None), 0.0))

    def point(self, kind: str) -> Point | None:
        """Return the branch's model of one kind, or None."""
        return next((point for point in self.points if point.kind == kind), None)


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything on the page.

    Attributes:
        title: Headline.
        task: Name and digest of the data.
        created: When the last entry was made, ISO 8601.
        teacher: The reference, or None when nothing was evaluated.
        branches: One a budget, cheapest last.
        promotion: What `promote` answered; empty when it was not asked. Its `export` says which branch it was about.
        pull: How to get the model, commands by tool.
        tracking: Facts on MLflow (uri, ui, parent_run).
        versions: Packages by name.
        machine: Processor, cores, system.
        missing: Entries that were named but are not in the store.
    """

    title: str
    task: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    teacher: Point | None = None
    branches: Sequence[Branch] = ()
    promotion: Mapping[str, Any] = field(default_factory=dict)
    pull: Mapping[str, str] = field(default_factory=dict)
    tracking: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    missing: Sequence[str] = ()

    @property
    def points(self) -> list[Point]:
        """The teacher, then every branch's models."""
        return ([self.teacher] if self.teacher else []) + [p for branch in self.branches for p in branch.points]

    @property
    def notes(self) -> list[str]:
        """What the evaluations left out and why, each once."""
        return list(dict.fromkeys(str(n) for branch in self.branches for n in branch.evaluation.get("notes") or []))

    @property
    def latency_keys(self) -> list[str]:
        """What was timed, ONNX Runtime and large batches first."""
        keys = {key for point in self.points for key in point.numbers.get("latency_ms") or {}}
        return sorted(keys, key=lambda key: (not key.startswith("onnxruntime"), -_batch(key), key))

    @property
    def best(self) -> Branch | None:
        """The branch that is shown on top: the one chosen for promotion, else the fastest of those that passed.

        Fast means the paired speed-up over the teacher, as promotion ranks: latencies of two branches were timed
        at different times and cannot be compared.
        """
        chosen = self.promotion.get("export")
        for branch in self.branches:
            if chosen and any(row.ref == chosen for row in branch.rows):
                return branch
        key = self.latency_keys[0] if self.latency_keys else ""
        return max(self.branches, key=lambda branch: (bool(branch.has_passed), branch.speedup(key)), default=None)


def latency_title(key: str) -> str:
    """Return a latency key for people.

    >>> latency_title("onnxruntime/b32")
    'ONNX Runtime, batch 32'
    """
    runtime, _, batch = key.partition("/b")
    names = {"onnxruntime": "ONNX Runtime", "torch": "PyTorch", "tensorrt": "TensorRT"}
    return f"{names.get(runtime, runtime)}, batch {batch}" if batch else names.get(runtime, runtime)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of points that no other beats on both (smaller x, larger y), by increasing x.

    >>> pareto_front([(3, 0.9), (1, 0.7), (2, 0.6)])
    [1, 0]
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def _batch(key: str) -> int:
    number = key.partition("/b")[2]
    return int(number) if number.isdigit() else 0
