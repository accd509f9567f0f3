"""Studies: questions answered by a grid of measurements that survives interruptions, with verdicts written by code."""

from compress.studies.study import Bench, Cell, Row, Study, Table, Verdict

__all__ = ["Bench", "Cell", "Row", "Study", "Table", "Verdict"]
