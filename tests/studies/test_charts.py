import re

from studies.charts import Dot, Line, dots_chart, heat_chart, lines_chart


def test_every_dot_has_its_line_and_intervals_stay_inside():
    dots = [
        Dot(label="a", kind="student", value=90.0, half=50.0, hollow=(80.0,)),
        Dot(label="b", kind="int8", value=88.0),
    ]
    svg = dots_chart("title", "accuracy", dots)
    assert all(f">{text}<" in svg for text in ("a", "b", "title", "accuracy"))
    assert {"a: 90.00", "a: 80.00", "b: 88.00"} <= set(re.findall(r"<title>([^<]*)", svg))
    assert all(0 <= float(x) <= 720 for x in re.findall(r'x[12]?="(-?[\d.]+)"', svg))
    assert dots_chart("title", "x", []) == ""


def test_lines_are_named_without_overlap():
    lines = [Line(label=name, kind="student", points=((0.0, 1.0), (1.0, 2.0))) for name in ("one", "two")]
    svg = lines_chart("title", "x", "y", lines)
    heights = [float(y) for y, name in re.findall(r'y="([\d.]+)"[^>]*>(one|two)<', svg)]
    assert abs(heights[0] - heights[1]) >= 14
    assert lines_chart("title", "x", "y", []) == ""


def test_a_square_shows_numbers_and_holes():
    svg = heat_chart("title", ["first", "second"], [[1.0, -0.5], [None, 0.25]])
    assert all(f">{text}<" in svg for text in ("1.00", "-0.50", "0.25", "first", "second"))
    assert svg.count("<rect") == 4
