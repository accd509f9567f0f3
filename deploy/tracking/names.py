"""The fixed names under which reports appear in MLflow, so that runs can be compared.

`quality/…` are parts of one (0.98), `size/…` carry their unit, `ratio/…` say how many times better than the
teacher (above 1 is better), `latency/…` are medians of one batch in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

#: Longest value that MLflow keeps of a parameter, and of a tag.
PARAM_LENGTH, TAG_LENGTH = 6000, 5000

#: Tag of the budget's name, as the pipeline's user wrote it.
LABEL_TAG = "secateur.budget"

#: Path in a report -> (metric name, factor).
SCALARS: Mapping[str, tuple[str, float]] = {
    "validation_accuracy": ("quality/validation_top1", 1.0),
    "accuracy_cut": ("quality/after_cut", 1.0),
    "accuracy_recalibrated": ("quality/after_recalibration", 1.0),
    "accuracy_tuned": ("quality/after_tuning", 1.0),
    "cost.params": ("size/params_m", 1e-6),
    "cost.macs": ("size/macs_m", 1e-6),
    "cost.size_bytes": ("size/weights_mb", 1e-6),
    "onnx.size_bytes": ("size/onnx_mb", 1e-6),
    "onnx.parity_max_abs": ("parity/max_abs", 1.0),
    "threshold": ("cascade/threshold", 1.0),
    "route_shares.0": ("cascade/share_small", 1.0),
    "expected_macs": ("cascade/expected_macs_m", 1e-6),
    "expected_macs_ratio": ("ratio/expected_macs", 1.0),
    "parity.max_abs": ("parity/max_abs", 1.0),
    "parity.top1_agree": ("parity/top1_agree", 1.0),
    "passed": ("gate/passed", 1.0),
}

#: Names of a model's numbers in the report of `evaluate`.
MODEL_SCALARS: Mapping[str, tuple[str, float]] = {
    "test_accuracy": ("quality/test_top1", 1.0),
    "interval.0": ("quality/test_top1_low", 1.0),
    "interval.1": ("quality/test_top1_high", 1.0),
    "validation_accuracy": ("quality/validation_top1", 1.0),
    "macs": ("size/macs_m", 1e-6),
    "params": ("size/params_m", 1e-6),
    "size_bytes": ("size/onnx_mb", 1e-6),
    "peak_memory_bytes": ("memory/peak_mb", 1e-6),
}

RATIOS: Mapping[str, str] = {"macs": "ratio/macs", "params": "ratio/params", "size_bytes": "ratio/size"}


def metrics_of(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a stage's report under the fixed names.

    The report of `evaluate` gives the student's numbers their plain names and the others' the model in front:
    `quality/test_top1`, `teacher/quality/test_top1`, `int8/latency/host_p50_ms/b32`.

    >>> metrics_of({"validation_accuracy": 0.5, "cost": {"macs": 2e6}})
    {'quality/validation_top1': 0.5, 'size/macs_m': 2.0}
    """
    found = dict(_scalars(report, SCALARS))
    models, ratios = report.get("models") or {}, report.get("ratios") or {}
    for name, numbers in models.items():
        front = "" if name == "student" else f"{name}/"
        found |= {front + key: value for key, value in _model(numbers)}
        found |= {front + key: value for key, value in _ratios(ratios.get(name) or {})}
        teacher, mine = (_number(models.get(who) or {}, "test_accuracy") for who in ("teacher", name))
        if name != "teacher" and teacher is not None and mine is not None:
            found[f"{front}quality/delta_vs_teacher"] = mine - teacher
    return found


def params_of(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested configuration as flat MLflow parameters.

    >>> params_of({"criterion": {"name": "taylor"}, "budget": "macs=0.5"})
    {'criterion.name': 'taylor', 'budget': 'macs=0.5'}
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= params_of(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[f"{prefix}{key}"] = text[:PARAM_LENGTH]
    return flat


def recipe_sha256(recipe: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a nested recipe (stages and configurations, no data)."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def latency_name(key: str) -> str:
    """Return the metric of a latency key of the reports.

    >>> latency_name("onnxruntime/b32"), latency_name("torch/b1"), latency_name("tensorrt/b8")
    ('latency/host_p50_ms/b32', 'latency/torch_host_p50_ms/b1', 'latency/gpu_p50_ms/b8')
    """
    runtime, _, batch = key.partition("/")
    where = {"onnxruntime": "host", "tensorrt": "gpu"}.get(runtime, f"{runtime}_host")
    return f"latency/{where}_p50_ms/{batch or 'b1'}"


def _model(numbers: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield from _scalars(numbers, MODEL_SCALARS)
    for key in numbers.get("latency_ms") or {}:
        value = _number(numbers["latency_ms"], key)
        if value is None:
            continue
        yield latency_name(key), value
        runtime, _, batch = key.partition("/b")
        if runtime == "onnxruntime" and batch.isdigit() and value > 0:
            yield f"throughput/qps_b{batch}", 1000 * int(batch) / value


def _ratios(ratios: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key in ratios:
        where, _, rest = key.partition("/")
        if where == "latency" and (value := _number(ratios, f"{key}", "value")) is not None:
            yield f"ratio/speedup_{rest.removeprefix('onnxruntime/').replace('/', '_')}", value
            if rest == "onnxruntime/b32":
                yield "ratio/speedup", value
        elif key in RATIOS and (value := _number(ratios, key)) is not None:
            yield RATIOS[key], value


def _scalars(data: Mapping[str, Any], names: Mapping[str, tuple[str, float]]) -> Iterator[tuple[str, float]]:
    for path, (name, factor) in names.items():
        value = _number(data, *path.split("."))
        if value is not None:
            yield name, value * factor


def _number(data: Any, *path: str) -> float | None:
    for key in path:
        if isinstance(data, Mapping):
            data = data.get(key)
        elif isinstance(data, list | tuple) and key.isdigit() and int(key) < len(data):
            data = data[int(key)]
        else:
            return None
    return float(data) if isinstance(data, int | float) and math.isfinite(data) else None
