"""A real `python -m kernelq` for the tests of this directory: started, watched through its log and
its processes, and ended without leaving anything behind.

Everything waits for events: a line of the log, a process's end, an answer. The limits on waiting
are there for a server that hangs, and are far beyond what a good one needs.
"""

import ctypes
import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
APPLICATION = Path(__file__).with_name("fault_app.py")
SERVED = Path(os.environ.get("KERNELQ_TEST_ROOT", ROOT))  # another build, for instance a debug one
PATIENCE = float(
    os.environ.get("KERNELQ_TEST_PATIENCE", "60")
)  # seconds; for what will happen, on however slow a machine

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans(wanted: bool) -> None:
    """Processes whose parent ends become ours, so that none can slip away."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def debug_build() -> Path:
    """Where kernelq stands with its fault points; built when missing or stale."""
    target = ROOT / "build" / "debug"
    target.mkdir(parents=True, exist_ok=True)
    with open(target / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        environment = {**os.environ, "KERNELQ_DEBUG": "1"}
        command = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(target)]
        made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return target


class Log:
    """The server's standard error, line by line, as it comes."""

    def __init__(self, stream) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._has_ended = False
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream) -> None:
        for line in stream:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        stream.close()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, line)) for line in list(self.lines))

    def wait_for(self, pattern: str, times: int = 1) -> re.Match[str]:
        """The match of the line that makes it `times` lines."""
        expression = re.compile(pattern)

        def found() -> list[re.Match[str]]:
            return [match for line in self.lines if (match := expression.search(line))]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= times or self._has_ended, PATIENCE)
            matches = found()
        assert len(matches) >= times, f"no line matches {pattern!r} {times} times:\n{self}"
        return matches[times - 1]

    def wait_for_end(self) -> None:
        self._reader.join(PATIENCE)

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Server:
    """One running kernelq, its log and its processes."""

    def __init__(self, directory: Path, options: Sequence[str], environment: dict[str, str],
                 root: Path, prefix: Sequence[str],
                 pass_fds: Sequence[int] = ()) -> None:  # fmt: skip
        self.directory = directory
        self.executions = directory / "executions"
        # Servers of other test modules may still be there: they are none of ours.
        self._others = set(psutil.Process().children(recursive=True))
        command = [*prefix, sys.executable, "-m", "kernelq", *self.words(options)]
        words = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**words, **environment},
            cwd=directory,
            pass_fds=pass_fds,
            text=True,
            errors="backslashreplace",
        )
        self.log = Log(self.process.stderr)
        self._seen: dict[int, psutil.Process] = {}

    def words(self, options: Sequence[str]) -> list[str]:
        """What follows the command's name."""
        bound = ["--chdir", str(self.directory), "--bind", "127.0.0.1:0"]
        return ["fault_app:application", *bound, *options]

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_bound(self) -> None:
        port = self.log.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1]
        self.address = ("127.0.0.1", int(port))

    def wait_until_ready(self) -> None:
        self.wait_until_bound()
        self.log.wait_for("ready: the first worker serves")

    # Its processes.

    def processes(self) -> list[psutil.Process]:
        """All that live now, zombies too."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        for process in found:
            self._seen.setdefault(process.pid, process)
        return found

    def pids(self, name: str) -> list[int]:
        """Those that are called kernelq-name."""
        pids = []
        for process in self.processes():
            try:
                is_it = process.name() == f"kernelq-{name}"
                if is_it and process.status() != psutil.STATUS_ZOMBIE:
                    pids.append(process.pid)
            except psutil.NoSuchProcess:
                continue
        return sorted(pids)

    def wait_for_execution(self, number: int, times: int = 1) -> None:
        """Until the application has begun with a request."""
        self.wait_until(lambda: self.executed(number) >= times)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """For what has no event to wait for; how often it is looked at decides nothing."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline, str(self.log)
            threading.Event().wait(0.005)

    def executed(self, number: int) -> int:
        if not self.executions.exists():
            return 0
        lines = self.executions.read_text().splitlines()
        return sum(line.split()[1] == str(number) for line in lines)

    def suspend(self, pid: int) -> None:
        """SIGSTOP, until each of its threads stands still."""
        os.kill(pid, signal.SIGSTOP)
        tasks = list(Path(f"/proc/{pid}/task").glob("*/stat"))
        self.wait_until(lambda: all(_state(task) == "T" for task in tasks))

    # Its end.

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """TERM, and the status that it ends with."""
        self.processes()
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(PATIENCE)
        self.log.wait_for_end()
        return status

    def leftovers(self) -> list[str]:
        """Waits for the end of every process that was ever seen; names those that stay."""
        left = []
        for process in [*self._seen.values(), *psutil.Process().children(recursive=True)]:
            if process.pid == self.pid or process in self._others or _has_ended(process):
                continue
            left.append(f"{process.pid} {process.cmdline()}")
            os.kill(process.pid, signal.SIGKILL)
        return left


def _state(stat: Path) -> str:
    return stat.read_text().rpartition(") ")[2][:1]


def _has_ended(process: psutil.Process) -> bool:
    if not process.is_running():
        return True
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        ended, _, _ = select.select([descriptor], [], [], PATIENCE / 4)
        if ended and process.ppid() == os.getpid():
            os.waitpid(process.pid, 0)
        return bool(ended)
    except (psutil.NoSuchProcess, ChildProcessError):
        return True
    finally:
        os.close(descriptor)


@contextmanager
def running(
    directory: Path,
    *options: str,
    environment: dict[str, str] | None = None,
    root: Path = SERVED,
    application: Path = APPLICATION,
    prefix: Sequence[str] = (),
    ready: bool = True,
) -> Iterator[Server]:
    """A server of the fault application, which at the end has left nothing behind."""
    shutil.copy(application, directory / "fault_app.py")
    adopt_orphans(True)
    server = Server(directory, options, environment or {}, root, prefix)
    try:
        if ready:
            server.wait_until_ready()
        yield server
        if server.process.poll() is None:
            assert server.stop() == 0, str(server.log)
            assert server.log.count("graceful timeout") == 0, str(server.log)
        assert server.leftovers() == [], str(server.log)
        assert server.log.count("kernelq: bug") == 0, str(server.log)
    finally:
        server.processes()
        server.process.kill()
        server.process.wait(PATIENCE)
        server.leftovers()
        adopt_orphans(False)
