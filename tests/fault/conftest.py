"""What the fault tests share."""

import pytest
from harness import Server, running


@pytest.fixture
def serve(tmp_path):
    """`serve(*options)`: a running server; several in one test follow one another."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(*options: str, **how: object) -> Server:
            return stack.enter_context(running(tmp_path, *options, **how))

        yield start
