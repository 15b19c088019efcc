"""What the scenarios share. The application, the clients and the watching of processes are those of
tests/fault.
"""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

for folder in ("fault", "integration"):
    sys.path.append(str(Path(__file__).resolve().parent.parent / folder))

pytest.register_assert_rewrite("scene", "steady")

from load import Client  # noqa: E402
from scene import Scene, acting  # noqa: E402


@pytest.fixture
def serve(tmp_path):
    """`serve(text)`: a running server with this kernelq.toml; see scene.py."""
    with ExitStack() as stack:

        def start(text: str, directory: Path = tmp_path, **how: object) -> Scene:
            return stack.enter_context(acting(directory, text, **how))

        yield start


@pytest.fixture
def connect():
    """`connect(scene)`: one more client, closed at the end."""
    with ExitStack() as stack:
        yield lambda scene: stack.enter_context(Client(scene.address))
