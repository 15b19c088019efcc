"""What the fault tests share."""

from contextlib import ExitStack

import pytest
from core_bench import CoreBench
from harness import Server, debug_build, running
from hostile_field import Field
from load import Client


@pytest.fixture
def serve(tmp_path):
    """`serve(*options)`: a running server; several in one test follow one another."""
    with ExitStack() as stack:

        def start(*options: str, **how: object) -> Server:
            return stack.enter_context(running(tmp_path, *options, **how))

        yield start


@pytest.fixture
def connect():
    """`connect(server)`: one more client, closed at the end."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(Client(server.address))


@pytest.fixture
def field():
    """`field(**settings)`: a core in a process of its own."""
    fields = []

    def start(**settings: object) -> Field:
        fields.append(Field(**settings))
        return fields[-1]

    yield start
    for one in fields:
        one.close()


@pytest.fixture(scope="session")
def debug_root():
    """The debug build: its fault points are compiled in."""
    return debug_build()


@pytest.fixture
def serve_with_fault(serve, debug_root, tmp_path):
    """`serve_with_fault("worker-taken:kill", *options)`: the process that first comes by the fault
    point while `server.token` exists dies there. `armed`: from the start.
    """

    def start(fault: str, *options: str, armed: bool = False, **how: object) -> Server:
        token = tmp_path / "token"
        token.touch()
        environment = {"KERNELQ_FAULT": fault, "KERNELQ_FAULT_TOKEN": str(token)}
        if not armed:
            token.unlink()
        server = serve(*options, environment=environment, root=debug_root, **how)
        server.token = token
        return server

    return start


@pytest.fixture
def bench():
    """`bench(**settings)`: a core in this process, whose workers the test plays itself."""
    made = []

    def start(**settings: object) -> CoreBench:
        made.append(CoreBench(**settings))
        return made[-1]

    yield start
    for one in made:
        one.close()
