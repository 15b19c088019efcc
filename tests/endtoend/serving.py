"""A kernelq under test: real processes, and everything that they say, line by line."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from wire import PATIENCE_SECONDS, Client, Response

ROOT = Path(__file__).resolve().parent.parent.parent
SERVED = Path(os.environ.get("KERNELQ_TEST_ROOT", ROOT))  # maybe a sanitizer's build
APPS = ROOT / "tests" / "apps"


class Log:
    """Lines of a pipe, kept as they come."""

    def __init__(self, descriptor: int) -> None:
        self.lines: list[str] = []
        self.is_over = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(descriptor,), daemon=True)
        self._thread.start()

    def _read(self, descriptor: int) -> None:
        with open(descriptor, encoding="utf-8", errors="replace") as pipe:
            for line in pipe:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self.is_over = True
            self._news.notify_all()

    def expect(self, *words: str, since: int = 0) -> str:
        """Wait for a line that holds all these words, from line `since` on."""
        found: list[str] = []

        def has_come() -> bool:
            found[:] = [line for line in self.lines[since:] if all(word in line for word in words)]
            return bool(found) or self.is_over

        with self._news:
            self._news.wait_for(has_come, PATIENCE_SECONDS)
        assert found, f"{words!r} never came; all that did:\n" + "\n".join(self.lines[since:])
        return found[0]

    def expect_count(self, count: int, *words: str, since: int = 0) -> None:
        """Wait until so many lines hold all these words."""
        with self._news:
            self._news.wait_for(
                lambda: self.is_over or self.count(*words, since=since) >= count, PATIENCE_SECONDS
            )
        assert self.count(*words, since=since) == count, "\n".join(self.lines[since:])

    def count(self, *words: str, since: int = 0) -> int:
        """How many lines hold all these words so far."""
        return sum(all(word in line for word in words) for line in self.lines[since:])

    def read_to_end(self) -> None:
        self._thread.join(PATIENCE_SECONDS)


class Server:
    """`python -m kernelq` with some arguments; as a context it is serving, and at the end has
    stopped on TERM with status 0 and left no process behind.
    """

    def __init__(
        self,
        *arguments: str,
        application: str = "web:application",
        bind: Sequence[str] = ("127.0.0.1:0",),
        workers: int = 1,
        folder: Path = APPS,
        environment: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        before: Sequence[str] = (),
    ) -> None:
        bindings = [word for one in bind for word in ("--bind", one)]
        count = [] if "--workers" in arguments else ["--workers", str(workers)]
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "kernelq", application, *bindings, *count, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(SERVED), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.output = Log(os.dup(self.process.stdout.fileno()))
        self.log = Log(os.dup(self.process.stderr.fileno()))
        self.process.stdout.close()
        self.process.stderr.close()
        self._clients: list[Client] = []

    def __enter__(self) -> Self:
        try:
            return self.ready()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.kill()
        elif self.process.returncode is None:
            assert self.stop() == 0, "\n".join(self.log.lines)

    def ready(self) -> Self:
        self.log.expect("ready: the first worker serves")
        return self

    @property
    def urls(self) -> list[str]:
        lines = (re.search(r"listening on (\S+)", line) for line in list(self.log.lines))
        return [found[1] for found in lines if found]

    def address(self, number: int = 0) -> tuple[str, int] | str:
        return address_of(self.urls[number])

    def connect(self, number: int = 0, receive_bytes: int = 0) -> Client:
        """A connection, which ends with the server at the latest."""
        client = Client(self.address(number), receive_bytes)
        self._clients.append(client)
        return client

    def ask(self, target: str, *lines: str, method: str = "GET", content: bytes | None = None,
            version: str = "1.1") -> Response:  # fmt: skip
        """One request over a connection of its own."""
        with Client(self.address()) as client:
            return client.ask(target, *lines, method=method, content=content, version=version)

    def look(self) -> None:
        """Give the core's loop time to read what has been sent so far: it reads in the order of
        arrival, and refuses this without any worker.
        """
        with Client(self.address()) as client:
            assert client.ask("x:1", method="CONNECT").status == 501

    def pids(self, name: str) -> list[int]:
        """The processes of one kind: service, spawner, zygote or worker."""
        return [pid for pid in descendants(self.process.pid) if comm(pid) == f"kernelq-{name}"]

    def mark(self) -> int:
        """A place in the log, for `since`."""
        return len(self.log.lines)

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()

    def family(self) -> list[psutil.Process]:
        """Every process that must end with it."""
        return [psutil.Process(pid) for pid in descendants(self.process.pid)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal; give the status once everything has ended."""
        self.close_clients()
        family = self.family()
        self.process.send_signal(number)
        return self.ended(family)

    def ended(self, family: Sequence[psutil.Process] = ()) -> int:
        """Wait for the end; give the status."""
        try:
            status = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("it did not stop:\n" + "\n".join(self.log.lines)) from None
        self.close_clients()
        left = [process for process in family if process.is_running()]
        assert not left, left
        self.log.read_to_end()
        self.output.read_to_end()
        return status

    def kill(self) -> None:
        """For the end of a test that has failed."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.close_clients()


class Gate:
    """Where the application waits until the test lets it go on (tests/apps/web.py)."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(64)
        self._socket.settimeout(PATIENCE_SECONDS)
        self._inside: list[socket.socket] = []

    def enter(self) -> str:
        """Wait until the application has come; give its word."""
        link, _ = self._socket.accept()
        link.settimeout(PATIENCE_SECONDS)
        self._inside.append(link)
        return link.recv(1024).decode()

    def open(self) -> None:
        """Let the first one that came go on."""
        self._inside.pop(0).close()

    def close(self) -> None:
        while self._inside:
            self.open()
        self._socket.close()


def address_of(url: str) -> tuple[str, int] | str:
    """Where to connect to, for a URL of a start-up line."""
    if url.startswith("unix:"):
        return url.removeprefix("unix:")
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host.strip("[]"), int(port)


def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait for what nothing announces."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} never came about"
        time.sleep(0.005)


def descendants(pid: int) -> list[int]:
    try:
        return [process.pid for process in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
