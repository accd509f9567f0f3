"""From the entries of a store to the data of the page, by following parents back from what was judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compress.core.stage import Ref
from compress.store import ModelStore
from deploy.report.data import KIND_NAMES, KINDS, Branch, Cut, Point, ReportData, StageRow
from deploy.report.formats import plain

Record = Mapping[str, Any]

#: Where a branch ends, most downstream first.
ENDS = ("evaluate", "export", "finetune_quant", "distill", "prune", "search", "train")
#: Roles that lead back along the chain that made the model.
MAIN_ROLES = ("model", "evaluation")
STEPS = (
    ("accuracy_cut", "after the cut"),
    ("accuracy_recalibrated", "norms recalibrated"),
    ("accuracy_tuned", "fine-tuned"),
)


def gather(
    store: ModelStore,
    refs: Mapping[str, Sequence[str]],
    *,
    title: str = "",
    promotion: Mapping[str, Any] | None = None,
    pull: Mapping[str, str] | None = None,
    tracking: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    num_validation: int | None = None,
) -> ReportData:
    """Return what the page shows.

    Args:
        store: Holds the entries.
        refs: Entries by stage, one for each budget; entries that these were made from are found by themselves.
        title: Headline; default: from the task.
        promotion: What `promote` answered.
        pull: How to get the model (`deploy.promote.pull_commands`).
        tracking: uri, ui and parent_run of MLflow.
        labels: Names of budgets by one of their entries (the evaluation, say); default: the budget's text.
        num_validation: Number of validation inputs, for intervals; default: what a report says.
    """
    records, missing = _closure(store, [ref for group in refs.values() for ref in group if ref])
    counts = (record["report"].get("num_validation") for record in records.values())
    total = num_validation or next((count for count in counts if count), None)
    branches = _labelled([_branch(records, end, labels or {}, total) for end in _ends(records)])
    newest = max(records.values(), key=lambda record: str(record["created"]), default={})
    task = _task(records.values())
    return ReportData(
        title=title or f"Compressing a network for {task.get('name', 'an unknown task')}",
        task=task,
        created=str(newest.get("created", "")),
        teacher=_teacher(branches),
        branches=branches,
        promotion=promotion or {},
        pull=pull or {},
        tracking=tracking or {},
        versions=newest.get("versions", {}),
        machine=newest.get("machine", {}),
        missing=missing,
    )


def _closure(store: ModelStore, refs: Iterable[str]) -> tuple[dict[str, Record], list[str]]:
    """Return the records of `refs` and of everything they were made from, and what could not be found."""
    records: dict[str, Record] = {}
    missing: list[str] = []
    waiting = list(dict.fromkeys(refs))
    while waiting:
        ref = waiting.pop(0)
        if ref in records or ref in missing:
            continue
        try:
            records[ref] = store.record(Ref(ref))
        except (KeyError, ValueError):
            missing.append(ref)
            continue
        waiting.extend(records[ref]["identity"]["parents"].values())
    return records, missing


def _ends(records: Mapping[str, Record]) -> list[Record]:
    """Return the last record of each branch, in the order in which they were named."""
    stages = {_stage(record) for record in records.values()}
    last = next((stage for stage in ENDS if stage in stages), None)
    return [record for record in records.values() if _stage(record) == last]


def _branch(
    records: Mapping[str, Record], end: Record, labels: Mapping[str, str], num_validation: int | None
) -> Branch:
    chain = _chain(records, end)
    reports = {_stage(record): record["report"] for record in chain}
    evaluation = reports.get("evaluate", {})
    gate = next((r for r in records.values() if end["ref"] in _parents(r) and _stage(r) == "gate"), None)
    cascade = _cascade(records, end, chain)
    timed = [record for record in chain if _stage(record) != "evaluate"]
    timed += [record for record in (cascade, end if end not in timed else None, gate) if record is not None]
    named = next((labels[record["ref"]] for record in timed if record["ref"] in labels), "")
    return Branch(
        label=named or _budget(chain),
        rows=_rows(timed, num_validation),
        cuts=[_cut(record) for record in chain if record["report"].get("kept")],
        search=reports.get("search", {}),
        export=reports.get("export", {}),
        cascade=cascade["report"] if cascade else {},
        evaluation=evaluation,
        gate=gate["report"] if gate else {},
        points=_points(evaluation),
    )


def _chain(records: Mapping[str, Record], end: Record) -> list[Record]:
    """Return the records from the first ancestor to `end` along the main roles."""
    chain = [end]
    while True:
        parents = chain[0]["identity"]["parents"]
        role = next((role for role in MAIN_ROLES if parents.get(role) in records), None)
        if role is None:
            break
        chain.insert(0, records[parents[role]])
    teacher = next((record for record in records.values() if record["ref"] in _teachers(chain)), None)
    has_large = any(record["ref"] == teacher["ref"] for record in chain) if teacher else True
    return chain if has_large or teacher is None else [teacher, *chain]


def _teachers(chain: Sequence[Record]) -> set[str]:
    named = (record["identity"]["parents"].get("teacher") for record in chain)
    return {ref for ref in named if ref}


def _cascade(records: Mapping[str, Record], end: Record, chain: Sequence[Record]) -> Record | None:
    named = end["identity"]["parents"].get("cascade")
    if named in records:
        return records[named]
    mine = {record["ref"] for record in chain if _stage(record) != "train"}
    return next((r for r in records.values() if _stage(r) == "cascade" and mine & set(_parents(r))), None)


def _rows(chain: Sequence[Record], num_validation: int | None) -> list[StageRow]:
    rows: list[StageRow] = []
    before: float | None = None
    for record in chain:
        report = record["report"]
        has_model = _stage(record) not in ("cascade", "evaluate", "gate")
        accuracy = report.get("validation_accuracy") if _stage(record) != "evaluate" else None
        delta = accuracy - before if accuracy is not None and before is not None else None
        rows.append(
            StageRow(
                stage=_stage(record),
                ref=record["ref"],
                options=_options(record["identity"]["config"]),
                accuracy=accuracy,
                interval=_interval(accuracy, num_validation),
                delta=delta,
                steps=[(name, report[key]) for key, name in STEPS if report.get(key) is not None],
                cost=report.get("cost") or {},
                seconds=float(record.get("seconds") or 0),
                note=str(report.get("note") or ""),
            )
        )
        before = accuracy if has_model and accuracy is not None else before
    return rows


def _interval(accuracy: float | None, number: int | None) -> Sequence[float] | None:
    """Return the 95 % interval of an accuracy measured on `number` inputs, None when either is unknown."""
    from compress.measure.significance import wilson_interval

    return wilson_interval(accuracy * number, number) if accuracy is not None and number else None


def _points(evaluation: Record) -> list[Point]:
    models, ratios = evaluation.get("models") or {}, evaluation.get("ratios") or {}
    reference = (models.get("teacher") or {}).get("test_accuracy")
    found = []
    for kind in KINDS[1:]:
        if numbers := models.get(kind):
            accuracy = numbers.get("test_accuracy")
            known = accuracy is not None and reference is not None
            delta = accuracy - reference if known else None
            found.append(
                Point(kind=kind, label=KIND_NAMES[kind], numbers=numbers, ratios=ratios.get(kind) or {}, delta=delta)
            )
    return found


def _labelled(branches: Sequence[Branch]) -> list[Branch]:
    """Give branches unique names, and their points the branch's name when there are several."""
    from dataclasses import replace

    names = [branch.label or f"run {index + 1}" for index, branch in enumerate(branches)]
    names = [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]
    several = len(branches) > 1
    return [
        replace(
            branch,
            label=name,
            points=[
                replace(point, budget=name, label=f"{point.label} {name}") if several else point
                for point in branch.points
            ],
        )
        for name, branch in zip(names, branches, strict=True)
    ]


def _teacher(branches: Sequence[Branch]) -> Point | None:
    found = (_teacher_of(branch.evaluation) for branch in branches)
    return next((point for point in found if point is not None), None)


def _teacher_of(evaluation: Record) -> Point | None:
    numbers = (evaluation.get("models") or {}).get("teacher")
    return Point(kind="teacher", label=KIND_NAMES["teacher"], numbers=numbers) if numbers else None


def points_of(evaluation: Record) -> list[Point]:
    """Return the models in a report of `evaluate`, the teacher first; none for any other report."""
    teacher = _teacher_of(evaluation)
    return ([teacher] if teacher else []) + _points(evaluation)


def _budget(chain: Sequence[Record]) -> str:
    budgets = [record["identity"]["config"].get("budget") for record in chain]
    return str(next((budget for budget in reversed(budgets) if budget), ""))


def _task(records: Iterable[Record]) -> dict[str, str]:
    for record in records:
        if task := record["identity"].get("task"):
            options = {key: value for key, value in task["piece"].items() if key != "name"}
            return {"name": task["piece"]["name"], "digest": task["digest"], "options": _options(options)}
    return {}


def _cut(record: Record) -> Cut:
    report = record["report"]
    return Cut(stage=_stage(record), kept=report["kept"], dropped=report.get("dropped") or ())


def _options(config: Mapping[str, Any]) -> str:
    """Return a configuration as one line.

    >>> _options({"criterion": {"name": "taylor", "square": True}, "budget": "macs=0.5"})
    'criterion taylor (square yes) · budget macs=0.5'
    """
    parts = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            rest = ", ".join(f"{name} {plain(option)}" for name, option in value.items() if name != "name")
            value = f"{value.get('name', '')}{f' ({rest})' if rest else ''}".strip()
        parts.append(f"{key} {plain(value)}")
    return " · ".join(parts)


def _stage(record: Record) -> str:
    return str(record["identity"]["stage"])


def _parents(record: Record) -> list[str]:
    return list(record["identity"]["parents"].values())
