"""From the data to one self-contained HTML file: no network, no script, everything escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.store import ModelStore
from deploy.report import formats
from deploy.report.charts import cascade_chart, pareto_chart, search_chart
from deploy.report.data import KIND_NAMES, ReportData, latency_title
from deploy.report.figures import pareto_png
from deploy.report.gather import gather
from deploy.report.markdown import verdict_line

HERE = Path(__file__).resolve().parent

#: (wide, narrow) sizes of each chart; the page shows the one that fits.
SIZES = {"pareto": ((1040, 440), (350, 360)), "small": ((520, 310), (350, 280))}


def write_report(
    store: ModelStore,
    refs: Mapping[str, Sequence[str]],
    path: str | Path,
    **more: Any,
) -> ReportData:
    """Gather `refs`, write the page to `path` and its main figure next to it (`pareto.png`), return the data.

    Args:
        store: Holds the entries.
        refs: Entries by stage, one for each budget.
        path: The HTML file to write.
        more: What else `gather` takes: title, promotion, pull, tracking, labels, num_validation.
    """
    data = gather(store, refs, **more)
    write_page(data, Path(path))
    return data


def write_page(data: ReportData, path: Path) -> None:
    """Write the page to `path` and its main figure next to it (`pareto.png`)."""
    render_report(data, path)
    pareto_png(data, path.with_name("pareto.png"))


def render_report(data: ReportData, path: Path) -> None:
    """Write the page; a reader sees the old file or the whole new one."""
    text = page(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def page(data: ReportData) -> str:
    """Return the HTML of the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=formats.percent,
        points=formats.points,
        span=formats.span,
        count=formats.count,
        size=formats.size,
        ms=formats.milliseconds,
        seconds=formats.seconds,
        ratio=formats.ratio,
        ratio_span=formats.ratio_span,
        factor=formats.factor,
        plain=formats.plain,
        latency_title=latency_title,
        date=_date,
        short=_short,
    )
    charts = {
        "pareto_chart": _twice("pareto", lambda key, w, h: pareto_chart(data.points, key, w, h)),
        "cascade_chart": _twice("small", cascade_chart),
        "search_chart": _twice("small", search_chart),
    }
    template = environment.get_template("page.html")
    return template.render(data=data, verdict=verdict_line(data), kinds=KIND_NAMES, css=_css(), **charts)


def _twice(kind: str, draw: Callable[[Any, float, float], str]) -> Callable[[Any], Any]:
    """Return a function that draws a chart for wide and for narrow screens; "" stays ""."""
    from markupsafe import Markup

    def both(subject: Any) -> Any:
        wide, narrow = (draw(subject, *size) for size in SIZES[kind])
        if not wide:
            return Markup("")
        return Markup(f'<div class="chart wide">{wide}</div><div class="chart narrow">{narrow}</div>')

    return both


def _css() -> Any:
    from markupsafe import Markup

    return Markup((HERE / "templates" / "page.css").read_text(encoding="utf-8"))


def _date(text: str) -> str:
    """Return an ISO time as date and minute.

    >>> _date("2026-11-22T12:31:07+00:00")
    '2026-11-22 12:31 UTC'
    """
    return f"{text[:10]} {text[11:16]} UTC" if len(text) >= 16 else text


def _short(text: str, length: int = 12) -> str:
    """Return the beginning of a digest."""
    return text if len(text) <= length else f"{text[:length]}…"
