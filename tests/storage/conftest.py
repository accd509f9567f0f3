"""What all tests of storage share."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a figure that `make test-storage` shows although the test passed."""

    def printed(text: str) -> None:
        with capsys.disabled():
            print(text)

    return printed
