"""Programs that the administrator wants to be run when something has happened to a pool: its
rapid-fail protection, a worker left for a debugger.

Rules: no shell; as the user that serves, never as root unless that is root; nobody waits for one,
but it is reaped, and ended with all its children when it takes too long. The service never forks:
it names pool and kind to the spawner, who runs the program of its own table.

A program is told what happened by variables: KERNELQ_ACTION (rapid_fail, orphan), KERNELQ_POOL and,
if it is about a worker, KERNELQ_PID; `%1%` in its arguments is that pid too.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import NoReturn

from kernelq import linux, log
from kernelq.config import PoolSettings
from kernelq.identity import Identity
from kernelq.launch import clean_environment
from kernelq.letters import ActionKind
from kernelq.signals import restore_defaults
from kernelq.status import describe_status

PATIENCE_SECONDS = 60.0
RUNNING_MAX = 8
_EXIT_NOT_FOUND = 127  # as a shell says


@dataclass(frozen=True, slots=True)
class _Running:
    name: str
    deadline: float


class Actions:
    """The programs that are running. Single-threaded: it forks."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._running: dict[int, _Running] = {}  # by pid

    def start(self, pool: PoolSettings, kind: ActionKind, pid: int) -> None:
        """Run the pool's program for that; nothing, if it has none."""
        program = action_of(pool, kind)
        if not program:
            return
        name = f"pool {pool.name}: {kind.name.lower()} action {program[0]}"
        if len(self._running) >= RUNNING_MAX:
            log.warning(f"{name} is not run: {RUNNING_MAX} others have not ended")
            return
        try:
            child = self._run(fill(program, pid), make_variables(pool, kind, pid), name)
        except OSError as found:
            log.error(f"{name} could not be run: {found.strerror}")
            return
        log.info(f"{name} runs (pid {child})")
        self._running[child] = _Running(name, time.monotonic() + PATIENCE_SECONDS)

    def bury(self, pid: int, status: int) -> None:
        """A process has been waited for, which may have been one of these."""
        running = self._running.pop(pid, None)
        if running is not None:
            level = log.WARNING if status else log.INFO
            log.write(level, f"{running.name} has ended (pid {pid}): {describe_status(status)}")

    def seconds_to_wait(self) -> float | None:
        """Until the next one has taken too long; None: none runs."""
        due = min((running.deadline for running in self._running.values()), default=None)
        return None if due is None else max(0.0, due - time.monotonic())

    def end_late(self) -> None:
        """Kill what has taken too long, with all that it started."""
        now = time.monotonic()
        for pid, running in self._running.items():
            if running.deadline <= now:
                log.warning(f"{running.name} took over {PATIENCE_SECONDS:g} s and is killed")
                self._running[pid] = _Running(running.name, now + PATIENCE_SECONDS)
                _kill_group(pid)

    def end_all(self) -> None:
        """Kill whatever runs; who waits for children meets them."""
        for pid in self._running:
            _kill_group(pid)
        self._running.clear()

    def _run(self, command: list[str], variables: dict[str, str], name: str) -> int:
        parent = os.getpid()
        pid, reader, writer = linux.fork_with_pipe()
        if pid == 0:
            os.close(reader)
            self._become(command, variables, parent, writer, name)
        os.close(writer)
        os.read(reader, 1)  # it has its own session from here on, and can be killed as a group
        os.close(reader)
        return pid

    def _become(
        self, command: list[str], variables: dict[str, str], parent: int, ready: int, name: str
    ) -> NoReturn:
        try:
            os.setsid()
            os.write(ready, b"x")
            restore_defaults()
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # which only Python wants to be ignored
            linux.close_all_but([])
            linux.empty_input()
            self._identity.assume()
            os.chdir("/")
            if linux.die_with_parent(parent):
                environment = clean_environment(os.environ, self._identity)
                os.execvpe(command[0], command, environment | variables)
        except BaseException as found:
            words = getattr(found, "strerror", None) or repr(found)
            log.error(f"{name} could not be run: {words}")
        os._exit(_EXIT_NOT_FOUND)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(OSError):  # a set-user-id program is not ours to end
        os.killpg(pid, signal.SIGKILL)


def action_of(pool: PoolSettings, kind: ActionKind) -> tuple[str, ...]:
    """The pool's program for that, with its arguments; (): none."""
    return pool.orphan_action if kind == ActionKind.ORPHAN else pool.rapid_fail.action


def fill(program: tuple[str, ...], pid: int) -> list[str]:
    return [program[0], *(word.replace("%1%", str(pid)) for word in program[1:])]


def make_variables(pool: PoolSettings, kind: ActionKind, pid: int) -> dict[str, str]:
    made = {"KERNELQ_ACTION": kind.name.lower(), "KERNELQ_POOL": pool.name}
    return made | ({"KERNELQ_PID": str(pid)} if pid else {})
