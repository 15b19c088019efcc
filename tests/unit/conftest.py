"""What tests of several modules share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_managers import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "s.sock")
    yield made
    made.close()
