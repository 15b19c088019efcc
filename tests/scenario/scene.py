"""A real `kernelq --config kernelq.toml`, a steady load of numbered requests, and the rule that
nothing is left when it has ended.

A scenario: start a Scene, start its load, wait until requests are answered, do something, wait for
what the server says of it, wait until more requests are answered, and judge every single one.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from harness import APPLICATION, PATIENCE, SERVED, Server, adopt_orphans
from load import Client, Request, judge, read_executions
from steady import Load

from kernelq.control import Client as Control

SHARED_MEMORY = "/dev/shm"

SERVER = """
[server]
log_level = "debug"
control = "control"
pid_file = "pid"
spill_dir = "spill"
graceful_timeout = "20s"
"""
ONE_SITE = """
[[site]]
name = "one"
bindings = ["127.0.0.1:0:"]
[[site.application]]
app = "fault_app:application"
"""


def pool(*lines: str, name: str = "one") -> str:
    """A [[pool]] with these keys; those of its tables with dots (recycling.time = ...)."""
    return "\n".join(["[[pool]]", f'name = "{name}"', *lines, ""])


def one_pool(*lines: str) -> str:
    """A whole file: one site, one application, one pool."""
    return SERVER + pool(*lines) + ONE_SITE


class Scene(Server):
    """One running kernelq with its configuration file, its control socket and its clients."""

    def __init__(self, directory: Path, text: str, environment: dict[str, str],
                 prefix: Sequence[str], pass_fds: Sequence[int]) -> None:  # fmt: skip
        self.file = directory / "kernelq.toml"
        self.write(text)
        self.control = Control(directory / "control")
        self.text = text
        self._loads = 0
        self._main: psutil.Process | None = None  # after an upgrade
        super().__init__(directory, (), environment, SERVED, prefix, pass_fds)

    def words(self, options: Sequence[str]) -> list[str]:
        return ["--config", str(self.file)]

    def write(self, text: str) -> None:
        """The configuration file, whole at any moment."""
        self.text = text
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def change(self, old: str, new: str) -> None:
        """The configuration file, with something else in it."""
        assert old in self.text, old
        self.write(self.text.replace(old, new))

    def wait_until_ready(self) -> None:
        self.wait_until_bound()
        self.log.wait_for("info ready: ")

    # What it does.

    def load(self, *sources: object, **how: object) -> Load:
        """Numbers are never used again: each request is known by its own in `executions`."""
        self._loads += 1
        return Load(self.address, *sources, first=self._loads * 1_000_000, **how)

    def ask(self, request: Request):
        """By a new connection."""
        with Client(self.address) as client:
            return client.ask(request)

    def event(self, number: int, times: int = 1) -> str:
        """The line of an event of docs/events.md."""
        return self.log.wait_for(rf".*\(event {number}\)", times).group()

    def events(self, number: int) -> int:
        return self.log.count(rf"\(event {number}\)")

    def pool(self, name: str = "one"):
        return next(pool for pool in self.control.pools() if pool["name"] == name)

    def workers(self, name: str = "one") -> list[int]:
        """The processes that serve."""
        return [one["pid"] for one in self.pool(name)["workers"] if one["state"] == "READY"]

    def judge(self, load: Load, dead: Collection[int] = ()) -> None:
        """Promise 2: nothing failed but what was executed by who died, and nothing ran twice."""
        judge(load.outcome, read_executions(self.executions), dead)

    def order(self, *words: str) -> subprocess.Popen[str]:
        """The command `kernelq`, as an administrator types it."""
        return subprocess.Popen(
            [sys.executable, "-m", "kernelq", *words, "--control", self.control.path],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(SERVED), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same, until it has ended."""
        with self.order(*words) as process:
            output, errors = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def held(self) -> dict[str, int]:
        """Open descriptors of those that stay for months."""
        return {
            name: len(os.listdir(f"/proc/{pid}/fd"))
            for name in ("service", "spawner")
            for pid in self.pids(name)
        }

    # Its main process, which an upgrade replaces.

    @property
    def pid(self) -> int:
        return self.process.pid if self._main is None else self._main.pid

    def follow_upgrade(self) -> None:
        """Until the first process has ended; another one is the main process now."""
        before = self.pid
        self.processes()
        if self._main is None:
            assert self.process.wait(PATIENCE) == 0
        else:
            assert os.waitstatus_to_exitcode(os.waitpid(before, 0)[1]) == 0
        pid = int((self.directory / "pid").read_text())
        assert pid != before
        self._main = psutil.Process(pid)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        if self._main is None:
            return super().wait()
        status = os.waitstatus_to_exitcode(os.waitpid(self._main.pid, 0)[1])
        self.log.wait_for_end()
        return status

    def is_running(self) -> bool:
        if self._main is None:
            return self.process.poll() is None
        return self._main.is_running() and self._main.status() != psutil.STATUS_ZOMBIE


def _left_files(directory: Path, before: set[str]) -> list[str]:
    """What it should have taken away with it."""
    left = [name for name in ("control", "pid") if (directory / name).exists()]
    left += os.listdir(directory / "spill")
    return left + sorted(set(os.listdir(SHARED_MEMORY)) - before)


@contextmanager
def acting(
    directory: Path,
    text: str,
    *,
    environment: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    ready: bool = True,
    status: int = 0,
) -> Iterator[Scene]:
    """A server of the fault application, which at the end has left nothing behind."""
    shutil.copy(APPLICATION, directory / "fault_app.py")
    (directory / "spill").mkdir(exist_ok=True)
    before = set(os.listdir(SHARED_MEMORY))
    adopt_orphans(True)
    scene = Scene(directory, text, environment or {}, prefix, pass_fds)
    try:
        if ready:
            scene.wait_until_ready()
        yield scene
        if scene.is_running():
            assert scene.stop() == status, str(scene.log)
            assert scene.log.count("graceful timeout") == 0, str(scene.log)
        assert scene.leftovers() == [], str(scene.log)
        assert scene.log.count("kernelq: bug") == 0, str(scene.log)
        assert scene.log.count(r"Traceback.*\n.*kernelq/") == 0, str(scene.log)
        assert _left_files(directory, before) == [], str(scene.log)
    finally:
        scene.control.close()
        scene.processes()
        for pid in {scene.pid, scene.process.pid}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        scene.process.wait(PATIENCE)
        scene.leftovers()
        adopt_orphans(False)
