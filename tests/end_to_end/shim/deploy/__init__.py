"""Stands in front of `deploy` in tests of the pipeline: its steps do no work, the rest is the real one."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
