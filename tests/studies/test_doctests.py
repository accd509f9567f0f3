import doctest
import importlib

import pytest

from compress import catalogue
from compress.studies.finder import study_names
from studies.ideas import STUDIES
from tests.studies.tiny import module_of

catalogue.load()


@pytest.mark.parametrize("name", ["tables", "ideas", "protocol", "charts", "torch_pruning_side"])
def test_examples_of_what_studies_share(name):
    assert doctest.testmod(importlib.import_module(f"studies.{name}")).failed == 0


@pytest.mark.parametrize("name", study_names(STUDIES))
def test_examples_of_a_study(name):
    assert doctest.testmod(module_of(name[:4])).failed == 0
