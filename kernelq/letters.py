"""The words of kernelq's processes: message kinds per link, exit statuses, and the letter a worker
starts with: its pool's settings, in a sealed memfd, because a message has too little room for many
applications.

Which process says what is a table here, so that both ends read the same one. Numbers are the
message's whole numbers in order; "text" and "descriptors" are named where a message carries them.
"""

from __future__ import annotations

import os
from enum import IntEnum

TYPE_CHECKING = False  # see worker.py
if TYPE_CHECKING:
    from typing import Any


class ToSpawner(IntEnum):
    """Service to spawner. A pool is an index into the table that the spawner has checked itself."""

    START = 1  # pool, worker, generation; descriptors: the channel's, then the control link
    SIGNAL = 2  # worker, signal
    RETIRE = 3  # pool, generation: no more starts of it
    ACTION = 4  # pool, kind, pid: run the pool's action program of that kind for that process
    SUSPEND = 5  # worker: give its memory back
    THROTTLE = 6  # pool, 1 or 0: hold its workers to their CPU limit, or let them go


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

    LETTER = 21  # worker, spawner's pid; descriptors: the letter, then as in START
    SUSPEND = 22  # push your memory out


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
    TELL_STACKS = 44  # service asks
    TOLD = 45  # descriptor: a memfd with the stacks as text; none: it could make none


class ToTable(IntEnum):
    """Supervisor to spawner: the table of pools, which nobody else may change."""

    POOLS = 25  # a parcel: the pools by index (pickle), replacing those that have no workers


class ToService(IntEnum):
    """Supervisor to service."""

    SPAWNER = 51  # descriptor: a link to a new spawner
    STOP = 52
    STOP_NOW = 53
    RELOAD = 54  # the applications' code, with the settings as they are
    REOPEN = 55  # descriptor: the access log, opened again
    # a parcel: settings, names and addresses of new sockets (pickle), and the sockets
    CONFIGURE = 56
    REFUSED = 58  # text: why there will be no reload
    LEND = 59  # give me copies of your listening sockets
    CONTROL = 60  # descriptor: the control socket, now that nobody else listens on it
    LEAVE = 61  # a new main process serves: finish, and remove nothing; text: as Heir.SERVING
    UPGRADE_FAILED = 62  # text: why


class FromService(IntEnum):
    """Service to supervisor."""

    NOTIFY = 71  # text: lines for systemd
    RELOAD = 72  # somebody asks for one
    RELOADED = 73  # number: 1, the settings are in force; 0, the old ones are
    UPGRADE = 74  # somebody asks for one
    LENT = 75  # a parcel: names (JSON), and sockets; the control socket's name is "control"
    POOL_GONE = 76  # pool, which is no longer in the settings: no process of it is needed any more


class Heir(IntEnum):
    """Between the main processes of an upgrade, old to new and back."""

    SOCKETS = 81  # as FromService.LENT
    SERVING = 82  # the new one serves; text: its version and service_pid (JSON)
    YOURS = 83  # the old one has let go of the control socket


# ABRT, KILL, TERM, STOP (an orphan, left for a debugger): all that a spawner will send for others.
SIGNALS_FOR_WORKERS = (6, 9, 15, 19)

EXIT_REFUSED = 81  # a worker that could not load its application
EXIT_ORPHANED = 82  # a worker whose spawner had died
EXIT_NOT_MADE = 83  # a process that could not become what it shall be; nothing of it has run


def pack_settings(pool: Any) -> str:
    """A pool's settings, as the letter carries them."""
    import json

    words = {
        "name": pool.name,
        "applications": _pack_applications(pool),
        "directory": pool.directory,
        "threads": pool.core.threads,
        "umask": pool.process.umask,
        "inspectable": pool.process.inspectable,
        "log_level": pool.log_level,
        "max_processes": pool.max_processes,
        "multiprocess": pool.max_processes > 1,
    }
    return json.dumps(words)


def _pack_applications(pool: Any) -> list[dict[str, Any]]:
    # One alone is there before READY; of several those that want to be warm, and those that a
    # reload has brought: it is to fail if they do not load. What is retired waits to be asked for.
    names = ("number", "site", "path", "app", "directory", "environment", "warm_up", "host")
    is_alone = len(pool.applications) == 1
    packed = []
    for one in (*pool.applications, *pool.retired):
        words = {name: getattr(one, name) for name in names}
        is_retired = one in pool.retired
        words["warm_up"] = () if is_retired else one.warm_up
        is_tried = is_alone or one.warm_up or one.number in pool.fresh
        words["loads_first"] = bool(is_tried) and not is_retired
        packed.append(words)
    return packed


def unpack_settings(text: str) -> dict[str, Any]:
    import json

    words: dict[str, Any] = json.loads(text)
    return words


def pack_letter(pool: Any) -> int:
    """A descriptor with the settings, for any number of readers; nobody can change it any more."""
    from kernelq import sealed

    return sealed.put("kernelq-letter", pack_settings(pool).encode())


def unpack_letter(letter: int) -> dict[str, Any]:
    """The settings; the descriptor is closed."""
    # Readers share the descriptor's offset with each other, so each says where it reads.
    with open(letter, "rb") as source:
        size = os.fstat(letter).st_size
        return unpack_settings(os.pread(source.fileno(), size, 0).decode())
