"""The words of kernelq's processes: message kinds per link, exit statuses, and the letter a worker
starts with.

Which process says what is a table here, so that both ends read the same one. Numbers are the
message's whole numbers in order; "text" and "descriptors" are named where a message carries them.
"""

from enum import IntEnum
from typing import Any


class ToSpawner(IntEnum):
    """Service to spawner. A pool is an index into the table that the spawner has checked itself."""

    START = 1  # pool, worker, generation; descriptors: the channel's, then the control link
    SIGNAL = 2  # worker, signal
    RETIRE = 3  # pool, generation: no more starts of it
    ACTION = 4  # pool, kind, pid: run the pool's action program of that kind for that process


class ActionKind(IntEnum):
    """Which of a pool's programs ACTION means."""

    RAPID_FAIL = 1  # rapid_fail.action
    ORPHAN = 2  # orphan_action


class FromSpawner(IntEnum):
    """Spawner to service."""

    STARTED = 11  # worker, pid; descriptor: its pidfd
    FAILED = 12  # worker; text: why, when it could not be made or refused to load the application
    DIED = 13  # worker, wait status, largest resident size in KiB, CPU time in microseconds


class ToWorker(IntEnum):
    """Spawner to worker or zygote, over the link whose end means: the spawner has died."""

    LETTER = 21  # worker, spawner's pid; text: pool settings; descriptors as in START


class ToZygote(IntEnum):
    FORK = 31  # worker; descriptor: the new worker's end of its link


class FromZygote(IntEnum):
    FORKED = 32  # worker, pid
    REFUSED = 33  # worker; text: why the application cannot be loaded


class Control(IntEnum):
    """Service and worker, both ways."""

    STACKS = 41  # service asks
    STACKS_DONE = 42  # worker has written them
    REFUSED = 43  # text: why the application cannot be loaded


class ToService(IntEnum):
    """Supervisor to service."""

    SPAWNER = 51  # descriptor: a link to a new spawner
    STOP = 52
    STOP_NOW = 53
    RELOAD = 54
    REOPEN = 55  # descriptor: the access log, opened again


class FromService(IntEnum):
    """Service to supervisor."""

    NOTIFY = 61  # text: lines for systemd


# ABRT, KILL, TERM, STOP (an orphan, left for a debugger): all that a spawner will send for others.
SIGNALS_FOR_WORKERS = (6, 9, 15, 19)

EXIT_REFUSED = 81  # a worker that could not load its application
EXIT_ORPHANED = 82  # a worker whose spawner had died
EXIT_NOT_MADE = 83  # a process that could not become what it shall be; nothing of it has run


def pack_settings(pool: Any) -> str:
    """A pool's settings, as the letter carries them."""
    import json

    first = pool.applications[0]
    words = {
        "name": pool.name,
        "application": first.app,
        "directory": first.directory,
        "workers": pool.max_processes,
        "threads": pool.core.threads,
        "umask": pool.process.umask,
        "inspectable": pool.process.inspectable,
        "log_level": pool.log_level,
        "multiprocess": pool.max_processes > 1,
    }
    return json.dumps(words)


def unpack_settings(text: str) -> dict[str, Any]:
    import json

    words: dict[str, Any] = json.loads(text)
    return words
