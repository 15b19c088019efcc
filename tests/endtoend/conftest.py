"""The server that most tests share, and gates."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import Gate, Server
from wire import Client


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    spill = tmp_path_factory.mktemp("spill")
    with Server(
        "--log-level", "debug", "--access-log", "-", "--threads", "4", "--spill-dir", str(spill)
    ) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """The shared server; its connections are closed after each test."""
    yield shared_server
    shared_server.close_clients()


@pytest.fixture
def client(server: Server) -> Client:
    """A connection to the shared server."""
    return server.connect()


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    """Makes gates."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate(tmp_path / f"gate{len(made)}"))
        return made[-1]

    yield make
    for gate in made:
        gate.close()


@pytest.fixture
def gate(gates: Callable[[], Gate]) -> Gate:
    return gates()
