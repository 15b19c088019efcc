"""Trying whether applications can be loaded, without starting a server: `kernelq check`.

Each pool's applications are imported by a process that is what its workers would be: the pool's
interpreter, user, limits, folder and variables, and kernelq's own loader. What they print goes to
standard error.

The process reads its letter from a memory file, and leaves its answer there: a pipe would be kept
open by what an application starts while it is imported. An answer comes from the pool's user, so
that nothing of it is believed but that it is text.
"""

import json
import os
import select
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from kernelq import cpus, sealed
from kernelq.config import PoolSettings, ServerSettings
from kernelq.errors import StartError
from kernelq.launch import Launch, become, prepare
from kernelq.letters import pack_settings, unpack_settings
from kernelq.status import describe_status
from kernelq.units import MS, SECOND

_ANSWER_BYTES_MAX = 1 << 20


@dataclass(slots=True)
class _Trial:
    """A process that tries to load the applications of one pool."""

    pool: PoolSettings
    pid: int
    pidfd: int
    memory: int
    deadline_ns: int


def try_pools(settings: ServerSettings) -> list[str]:
    """What is wrong with the applications of all pools, in words; nothing if they can be loaded."""
    errors: dict[str, list[str]] = {pool.name: [] for pool in settings.pools}
    waiting: deque[Launch] = deque()
    for pool in settings.pools:
        try:
            if pool.applications:
                waiting.append(prepare(pool))
        except StartError as refused:
            errors[pool.name].append(str(refused))
    running: list[_Trial] = []
    most = cpus.count_usable()
    while waiting or running:
        while waiting and len(running) < most:
            running.append(_start(waiting.popleft()))
        for trial in _await_some(running):
            running.remove(trial)
            found = _finish(trial)
            errors[trial.pool.name] += [f"pool {trial.pool.name}: {error}" for error in found]
    return [error for found in errors.values() for error in found]


def _start(launch: Launch) -> _Trial:
    from kernelq.processes import fork_process

    pool, parent = launch.pool, os.getpid()
    memory = sealed.create("kernelq-trial")
    _write(memory, _letter_of(pool))

    def main() -> int:
        os.dup2(2, 1)
        try:
            become(launch, parent, "trial", memory)
        except StartError as found:
            _write(memory, json.dumps([str(found)]))
        return 0

    pid = fork_process(main, [memory])
    deadline = time.monotonic_ns() + pool.startup_limit_ns
    return _Trial(pool, pid, os.pidfd_open(pid), memory, deadline)


def _letter_of(pool: PoolSettings) -> str:
    # Applications that differ in path alone are the same to an importer.
    found = {(one.app, one.directory, one.environment): one for one in pool.applications}
    few = tuple(replace(one, number=number) for number, one in enumerate(found.values()))
    return pack_settings(replace(pool, applications=few))


def _await_some(running: Sequence[_Trial]) -> list[_Trial]:
    """Those that have ended, or whose time is up."""
    poll = select.poll()
    for trial in running:
        poll.register(trial.pidfd, select.POLLIN)
    first = min(trial.deadline_ns for trial in running) - time.monotonic_ns()
    ended = {descriptor for descriptor, _ in poll.poll(max(0, first // MS + 1))}
    now = time.monotonic_ns()
    return [one for one in running if one.pidfd in ended or now >= one.deadline_ns]


def _finish(trial: _Trial) -> list[str]:
    """Its answer; a process that still runs is out of time."""
    pid, status = os.waitpid(trial.pid, os.WNOHANG)
    if not pid:
        os.kill(trial.pid, signal.SIGKILL)
        os.waitpid(trial.pid, 0)
    answer = os.pread(trial.memory, _ANSWER_BYTES_MAX, 0)
    os.close(trial.memory)
    os.close(trial.pidfd)
    if not pid:
        seconds = trial.pool.startup_limit_ns / SECOND
        return [f"loading its applications takes longer than {seconds:g} s (startup_time_limit)"]
    try:
        return [str(error) for error in json.loads(answer)]
    except ValueError:
        return [f"loading its applications ended the process ({describe_status(status)})"]


def _write(memory: int, text: str) -> None:
    data = text.encode()
    os.ftruncate(memory, 0)
    os.lseek(memory, 0, os.SEEK_SET)
    while data:
        data = data[os.write(memory, data) :]


def main(memory: int) -> NoReturn:
    """In the pool's own process: load what the letter names."""
    from kernelq.worker import prepare

    os.set_inheritable(memory, False)
    settings = unpack_settings(os.pread(memory, os.fstat(memory).st_size, 0).decode())
    os.ftruncate(memory, 0)
    prepare(settings)
    _write(memory, json.dumps(load_all(settings)))
    # Threads that an application has started do not matter here.
    os._exit(0)


def load_all(settings: dict[str, Any]) -> list[str]:
    """What is wrong with each application, in words."""
    from kernelq.applications import enter_directory, make_applications

    try:
        enter_directory(settings)
    except StartError as found:
        return [str(found)]
    errors = []
    for application in make_applications(settings).values():
        try:
            application.load_now()
        except StartError as found:
            errors.append(str(found))
    return errors
