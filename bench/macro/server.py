"""Starts a server, measures its whole process tree, ends all of it.

The harness is a child subreaper: an orphaned worker becomes its child instead of init's. While a
server is up it starts nothing else except a load generator that it waits for; hence the server is
whatever descends from the harness, and nothing that was ever started can be missed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench import apps
from bench.macro import proc
from bench.macro.client import Connection, Malformed, request
from bench.macro.peers import ROOT, TOOLS, Peer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_SECONDS = 20.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.02
PR_SET_CHILD_SUBREAPER = 36


class Failed(Exception):
    """A server or a load generator did not do its part."""


def prepare(descriptors: int) -> None:
    """Makes this process fit to run servers; to be called once, first."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < descriptors:
        sys.exit(f"needs {descriptors:,} descriptors, the limit is {hard:,} (ulimit -Hn)")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("ended by a signal"))


@contextmanager
def pinned(cpus: Sequence[int]) -> Iterator[None]:
    """What is started inside runs on these, numbered among the CPUs that we may use."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[cpu] for cpu in cpus})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not stop the cleaning up after the first."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    def __init__(
        self,
        peer: Peer,
        python: str,
        cpus: Sequence[int] = (0, 1),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.peer = peer
        self.python = python
        self.cpus = cpus
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            **(environment or {}),
        }
        self.port = 0
        self.others: set[int] = set()  # processes of ours that are not the server's

    def __enter__(self) -> Self:
        self.directory = tempfile.TemporaryDirectory(dir=TOOLS, prefix="run-")
        self.log = Path(self.directory.name, "log")
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self._start()
            self._await_answer()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def pids(self) -> list[int]:
        return [pid for pid in proc.descendants(os.getpid()) if pid not in self.others]

    def usage(self) -> proc.Usage:
        return proc.usage(self.pids())

    def _start(self) -> None:
        self.port = free_port()
        config = Path(self.directory.name, "config")
        www = Path(self.directory.name, "www")
        places = {"python": self.python, "port": self.port, "config": config, "www": www}
        www.mkdir()
        (www / "cached").write_bytes(apps.HELLO)
        (www / "cached64k").write_bytes(apps.LARGE)
        config.write_text(self.peer.fill(self.peer.config, **places))
        command = self.peer.words(self.peer.command, **places)
        with pinned(self.cpus), self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is ours alone
            )

    def _await_answer(self) -> None:
        assert self.process
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failed(
                    f"{self.peer.name} ended with {self.process.returncode}: {self._why()}"
                )
            try:
                with Connection(self.port) as connection:
                    if connection.exchange(request())[0].status == 200:
                        return
            except (OSError, Malformed):
                pass
            time.sleep(POLL_SECONDS)
        raise Failed(f"{self.peer.name} does not answer: {self._why()}")

    def _why(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "(silent)"

    def stop(self) -> None:
        """TERM to the server; KILL to whatever is left of it after a while."""
        with uninterrupted():
            if self.process and self.process.poll() is None:
                self.process.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            while self._left() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            if late := self._left():
                print(f"{self.peer.name}: killed {len(late)} processes", file=sys.stderr)
            while late := self._left():
                for pid in late:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(POLL_SECONDS)
            self.directory.cleanup()

    def _left(self) -> list[int]:
        """The server's processes that have not ended; those that have are reaped."""
        if self.process:
            self.process.poll()
        for pid in self.pids():
            if proc.stat(pid)[:2] == ["Z", str(os.getpid())]:
                os.waitpid(pid, os.WNOHANG)
        return self.pids()
