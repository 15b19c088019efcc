"""Servers for tests, and the rule that no test leaves a process behind."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server import Server, comm, descendants, write_application

from kernelq import linux


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    others = set(descendants(os.getpid()))  # servers that other test modules share
    linux.adopt_orphans()  # whatever is left behind becomes our child, and is seen
    yield
    linux.adopt_orphans(False)
    while True:  # orphans that have ended already
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    left = {pid: comm(pid) for pid in descendants(os.getpid()) if pid not in others}
    for pid in left:
        os.kill(pid, signal.SIGKILL)  # one test's failure is not the next one's
    assert left == {}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers in the test's folder, and ends those that the test has not ended."""
    servers: list[Server] = []

    def start_one(*arguments: str, **more: object) -> Server:
        servers.append(Server(tmp_path, *arguments, **more))  # type: ignore[arg-type]
        return servers[-1]

    yield start_one
    for server in servers:
        if server.process.returncode is None:
            server.kill_all()
        elif server.process.stderr is not None:
            server.process.stderr.close()


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """An application that says which process it is and which version of the code."""
    path = tmp_path / "app.py"
    write_application(path, "one")
    return path
