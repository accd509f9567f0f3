"""Scales, labels and charts."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from deploy.report import figures_of, gather, pareto_png
from deploy.report.charts import cascade_chart, pareto_chart, search_chart
from deploy.report.curves import robustness_chart, training_chart
from deploy.report.data import Point, pareto_front
from deploy.report.figures import kept_chart
from deploy.report.plot import Canvas, Frame, Labels, Scale, round_ticks
from tests.deploy.report.sample_run import sample

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [item.text or "" for item in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def shapes(svg: str) -> int:
    return len(list(ElementTree.fromstring(svg).iter(f"{SVG}g")))


def point(kind: str, accuracy: float, ms: float) -> Point:
    return Point(kind=kind, label=kind, numbers={"test_accuracy": accuracy, "latency_ms": {"onnxruntime/b1": ms}})


def test_scales_map_ends_to_ends() -> None:
    line = Scale(0, 10, 100, 200)
    assert (line(0), line(5), line(10)) == (100, 150, 200)
    log = Scale(1, 100, 0, 2, is_log=True)
    assert log(10) == pytest.approx(1.0)
    assert log.ticks() == [1, 2, 5, 10, 20, 50, 100]


def test_ticks_are_round_and_inside() -> None:
    assert round_ticks(0.13, 0.87, 5) == [0.2, 0.4, 0.6, 0.8]
    assert round_ticks(97.4, 99.6, 6) == [97.5, 98.0, 98.5, 99.0, 99.5]


def test_the_front_holds_what_nothing_beats() -> None:
    assert pareto_front([(1, 1), (2, 3), (3, 2), (4, 3), (5, 4)]) == [0, 1, 4]
    assert pareto_front([(1, 1), (1, 2)]) == [1]


def test_each_model_is_a_mark_with_a_label_and_the_speed_axis_refers_to_the_teacher() -> None:
    svg = pareto_chart([point("teacher", 0.99, 10), point("student", 0.98, 4)], "onnxruntime/b1")
    assert shapes(svg) == 2
    assert {"teacher", "student", "1×", "2×"} <= set(texts(svg))
    assert "100×" not in texts(svg)


def test_unmeasured_models_are_left_out_and_nothing_gives_nothing() -> None:
    models = [point("teacher", 0.99, 10), Point(kind="cascade", label="c", numbers={"test_accuracy": 0.9})]
    assert shapes(pareto_chart(models, "onnxruntime/b1")) == 1
    assert pareto_chart(models, "torch/b1") == ""


def test_far_apart_latencies_get_a_logarithmic_axis() -> None:
    svg = pareto_chart([point("teacher", 0.99, 100), point("student", 0.98, 1)], "onnxruntime/b1")
    assert {"1", "10", "100"} <= set(texts(svg))


def test_labels_never_overlap() -> None:
    canvas = Canvas(400, 300, "t")
    labels = Labels(Frame(0, 0, 400, 300))
    for index in range(30):
        labels.place(canvas, 200 + index % 5, 150 + index % 3, "some label", "ink")
    boxes = labels.boxes
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert boxes
    assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a, b in pairs)


def test_trials_and_curves_are_drawn_once_each() -> None:
    store, refs = sample()
    search = store.record(refs["search"][0])["report"]
    svg = search_chart(search)
    assert shapes(svg) == len(search["trials"])
    assert "chosen: trial 9" in texts(svg)
    odd = {"trials": [{"number": 1, "value": [0.9], "cost": 5.0}, {"number": 2, "value": None, "cost": 5.0}]}
    assert shapes(search_chart(odd)) == 1
    assert search_chart({"trials": []}) == "" == search_chart({})
    curve = cascade_chart(store.record(refs["cascade"][0])["report"])
    assert "threshold 0.6" in texts(curve)
    assert "teacher alone" in texts(curve)
    assert cascade_chart({"curve": []}) == ""


def test_training_is_drawn_by_epoch_and_needs_two() -> None:
    rows = [
        {"epoch": 1, "train_loss": 2.0, "validation_accuracy": 0.5},
        {"epoch": 2, "train_loss": 1.0, "validation_accuracy": None},
        {"epoch": 3, "train_loss": 0.5, "validation_accuracy": 0.9},
    ]
    svg = training_chart(rows)
    assert {"validation accuracy, %", "training loss", "epoch"} <= set(texts(svg))
    assert shapes(svg) == 2 + 3
    assert "epoch 3: 90" in svg
    assert training_chart(rows[:1]) == "" == training_chart([])
    assert "validation accuracy, %" not in texts(training_chart(rows[:2]))
    assert set(figures_of({"history": rows})) == {"training"}


def test_robustness_is_drawn_before_and_after() -> None:
    rows = [{"bits": bits, "before": 0.1 * bits, "after": 0.12 * bits} for bits in (8, 6, 4)]
    svg = robustness_chart(rows)
    assert shapes(svg) == 6
    assert "4 bits, after: 48.00" in svg
    assert {"before tuning", "after tuning"} <= set(texts(svg))
    assert robustness_chart([]) == ""
    assert set(figures_of({"robustness": rows})) == {"robustness"}


def test_names_are_escaped() -> None:
    svg = kept_chart({"<script>": [1, 2]})
    assert "<script>" not in svg
    assert texts(svg)[0] == "<script>"


def test_figures_of_a_stage_follow_from_its_report() -> None:
    store, refs = sample()
    assert set(figures_of(store.record(refs["search"][0])["report"])) == {"search", "kept"}
    assert "pareto-onnxruntime-b32" in figures_of(store.record(refs["evaluate"][0])["report"])
    assert figures_of({"validation_accuracy": 1.0}) == {}


def test_the_readme_picture_is_a_png_or_nothing(tmp_path: Path) -> None:
    store, refs = sample()
    assert pareto_png(gather(store, refs), tmp_path / "new" / "pareto.png")
    assert (tmp_path / "new" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert not pareto_png(gather(store, {}), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_threshold_of_a_cascade_is_not_the_picture_of_a_cut() -> None:
    assert "threshold" not in figures_of({"threshold": 0.3})
