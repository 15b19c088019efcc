"""A kernelq under test: real processes, and what they write to standard error line by line."""

import http.client
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 20.0  # how long a test waits for what must come; never how long it does wait


class Server:
    """`python -m kernelq` with some arguments, run in a folder that holds its application."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        binding: str = "127.0.0.1:0",
        environment: dict[str, str] | None = None,
        python: Sequence[str] = (sys.executable,),
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        bind = ["--log-level", "debug", *(["--bind", binding] if binding else [])]
        self.process = subprocess.Popen(
            [*python, "-m", "kernelq", *arguments, *bind],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=pass_fds,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._new.put(line.decode("utf-8", "replace").rstrip("\n"))
        self._new.put(None)

    @property
    def pid(self) -> int:
        return self.process.pid

    def expect(self, words: str) -> str:
        """The next line that contains these words; what came before it has been read."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                line = self._new.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"{words!r} never came; all that did:\n" + self.text())
            self.lines.append(line)
            if words in line:
                return line

    def text(self) -> str:
        return "\n".join(self.lines)

    def ready(self, workers: int = 1) -> "Server":
        """Wait until so many workers have loaded the application."""
        self.url = self.expect("listening on ").split()[-1]
        self.expect("ready: ")
        for _ in range(workers):
            self.expect(" is ready (event 6021)")
        return self

    def end(self, number: int | None = signal.SIGTERM) -> int:
        """Send a signal (or none), read to the end, and give the exit status."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE_SECONDS)
        while (line := self._new.get(timeout=PATIENCE_SECONDS)) is not None:
            self.lines.append(line)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def kill_all(self) -> None:
        """For the end of a test that has failed."""
        for process in [self.pid, *descendants(self.pid)]:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=20)

    def get(self, path: str = "/") -> str:
        connection = self.connect()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, (response.status, body)
            return body
        finally:
            connection.close()

    def pids(self, name: str) -> list[int]:
        """The processes of one kind: service, spawner, zygote or worker."""
        return [pid for pid in descendants(self.pid) if comm(pid) == f"kernelq-{name}"]

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for what no line announces."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < until, f"it never came about; all lines:\n{self.text()}"
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


def write_application(path: Path, version: str) -> None:
    """An application that answers with its version and the process that runs it."""
    path.write_text(
        "import os\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        f"    return [f'{version} {{os.getpid()}}'.encode()]\n"
    )
