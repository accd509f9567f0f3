"""The page that a run ends with, its figures and its numbers for MLflow."""

from deploy.report.data import ReportData
from deploy.report.figures import figures_of, pareto_png
from deploy.report.gather import gather
from deploy.report.markdown import final_metrics, note_markdown, summary_rows, verdict_line
from deploy.report.render import render_report, write_page, write_report

__all__ = [
    "ReportData",
    "figures_of",
    "final_metrics",
    "gather",
    "note_markdown",
    "pareto_png",
    "render_report",
    "summary_rows",
    "verdict_line",
    "write_page",
    "write_report",
]
