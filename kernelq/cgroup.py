"""Control groups, version 2: one group per pool, so that the pool's processor time is limited by
the kernel, and its memory given back when it sleeps.

    <own group>/                        the unit's, delegated to us (Delegate=yes)
        service/                        main process, service, spawner
        pool-NAME.INDEX-PID/            a pool's workers and zygotes; PID is the main process's

Theory of operation. The main process calls `open_cgroups()` once, before it forks, and each process
made after it has the result. The spawner makes a pool's folder; a worker enters it by itself,
before its exec, while it still may. The user that serves is given the files by which it throttles
and reclaims later without being root.

Facts: a group with processes of its own cannot hand controllers to groups below it (EBUSY): hence
the leaf `service`, which we move to before controllers are enabled. Only a group in which we are
alone is ours: others would not be moved along, and systemd hands over such a group with Delegate=.
In a group that was handed over, whoever moves a process needs the right to write to the target and
to the nearest common parent. An interface file is never made by writing: it is there or it is not.
A group can be removed when it has no process left, zombies not counted. memory.reclaim came with
Linux 5.19.

A plain folder can stand in for the kernel (`cgroup_root`): it needs cgroup.controllers and
cgroup.procs, and a folder `.new-group`, whose files each new group gets as the kernel would make
them. What is written is then appended, line by line, and does nothing.
"""

import contextlib
import errno
import os
import re
import shutil
from dataclasses import dataclass

from kernelq import log
from kernelq.linux import names_in, read_text

CONTROLLERS = ("cpu", "memory")
LEAF = "service"
PERIOD_US = 100_000
QUOTA_US_MIN = 1000  # the kernel's own
_NAME_BYTES_MAX = 100
_GROUP = re.compile(r"pool-.*\.\d+-(\d+)")
# What the user that serves writes to; who is in the group is none of its business.
_GIVEN = ("cpu.max", "memory.reclaim")
_ENOTSUP = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True)
class Group:
    """A pool's group. Nothing here raises because a group or file is not there: it says so."""

    path: str

    def join(self) -> None:
        """Move the calling process here; OSError."""
        _write(f"{self.path}/cgroup.procs", str(os.getpid()))

    def pids(self) -> list[int]:
        return [int(word) for word in read_text(f"{self.path}/cgroup.procs").split()]

    def memory(self) -> int | None:
        """Bytes that are charged to this group; None: not counted."""
        text = read_text(f"{self.path}/memory.current").strip()
        return int(text) if text.isdigit() else None

    def throttle(self, percent: float) -> bool:
        """At most so many percent of one CPU from now on, 0: no limit; False when it cannot be."""
        quota = max(QUOTA_US_MIN, round(PERIOD_US * percent / 100)) if percent else "max"
        return _try_write(f"{self.path}/cpu.max", f"{quota} {PERIOD_US}")

    def reclaim(self) -> bool:
        """Push out what memory can be pushed out; False when it cannot be, or nothing could."""
        before = self.memory()
        if not before:
            return False
        path = f"{self.path}/memory.reclaim"
        # EAGAIN: some of it, but not all, which nobody has expected.
        return _try_write(path, str(before), fine=(errno.EAGAIN,))

    def remove(self) -> bool:
        """False while processes are here."""
        try:
            _remove(self.path)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Where pools' groups stand. Without a base there are none, for the reason in `why`."""

    base: str = ""
    controllers: tuple[str, ...] = ()
    why: str = ""
    owner: tuple[int, int] | None = None  # the user that serves
    main: int = 0  # the main process

    @property
    def is_usable(self) -> bool:
        return bool(self.base)

    def describe(self) -> str:
        """One line: what there is, and what follows."""
        if not self.base:
            return (
                f"cgroups: not used: {self.why}; processor time cannot be throttled, "
                "idle workers push out their own memory"
            )
        missing = [name for name in CONTROLLERS if name not in self.controllers]
        text = f"cgroups: a group per pool below {self.base}"
        if "cpu" in missing:
            text += "; no cpu controller here: processor time cannot be throttled"
        if "memory" in missing:
            text += "; no memory controller here: idle workers push out their own memory"
        return text

    def group(self, name: str, index: int) -> Group | None:
        """The group of a pool, there or not; None without cgroups."""
        return Group(self._path(name, index)) if self.base else None

    def make(self, name: str, index: int) -> Group | None:
        """The pool's group, made if it is not there; None without cgroups. OSError."""
        if not self.base:
            return None
        group = Group(self._path(name, index))
        try:
            _make(group.path)
        except FileExistsError:
            return group
        if self.owner is not None:
            for file in _GIVEN:
                with contextlib.suppress(FileNotFoundError):
                    _give(os.path.join(group.path, file), self.owner)
        return group

    def remove_abandoned(self) -> None:
        """Remove empty groups of main processes that live no more."""
        for name in names_in(self.base) if self.base else ():
            found = _GROUP.fullmatch(name)
            if found and not os.path.exists(f"/proc/{found[1]}"):
                Group(os.path.join(self.base, name)).remove()

    def remove_all(self) -> None:
        """At the end of the main process: its pools' groups, which are empty then."""
        for name in names_in(self.base) if self.base else ():
            found = _GROUP.fullmatch(name)
            if found and int(found[1]) == self.main:
                Group(os.path.join(self.base, name)).remove()

    def _path(self, name: str, index: int) -> str:
        # No slash, no dot at its start, nothing that could be an interface file.
        words = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_NAME_BYTES_MAX]
        return os.path.join(self.base, f"pool-{words}.{index}-{self.main}")


NO_CGROUPS = Cgroups(why="not asked for")


def open_cgroups(root: str, owner: tuple[int, int] | None = None, proc: str = "/proc") -> Cgroups:
    """Find our group below `root`, move this process into its leaf, enable controllers.

    For the main process, before it forks. Never fails: what cannot be is in `why`.
    """
    try:
        own = find_own(root, proc)
        base = os.path.dirname(own) if _is_leaf(own) else own
        if base == own:
            _require_alone(own)
            _move_to_leaf(own)
        controllers = tuple(name for name in CONTROLLERS if _enable(base, name))
        made = Cgroups(base, controllers, owner=owner, main=os.getpid())
        made.remove_abandoned()
        return made
    except OSError as found:
        why = found.strerror or str(found)
        return Cgroups(why=f"{found.filename}: {why}" if found.filename else why)


def find_own(root: str, proc: str = "/proc") -> str:
    """The folder of our own group; OSError when there is none that we could see."""
    # In the hybrid layout, version 2 is mounted below version 1's controllers.
    places = (root, f"{root}/unified")
    mounts = [path for path in places if os.access(f"{path}/cgroup.controllers", os.R_OK)]
    if not mounts:
        raise OSError(errno.ENOENT, f"no cgroup2 at {root}")
    lines = read_text(f"{proc}/self/cgroup").splitlines()
    paths = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    own = os.path.join(mounts[0], *(paths[0].strip("/") for _ in paths[:1])).rstrip("/")
    if not paths or "/.." in paths[0] or not os.access(f"{own}/cgroup.procs", os.R_OK):
        raise OSError(errno.ENOENT, f"our own group lies outside of {mounts[0]}")
    return own


def _is_leaf(own: str) -> bool:
    # We were started by a server that lives there (an upgrade), or with DelegateSubgroup=service.
    # The group above then has no process of its own: controllers could be handed down from it.
    above = os.path.dirname(own)
    return os.path.basename(own) == LEAF and not read_text(f"{above}/cgroup.procs").split()


def _require_alone(own: str) -> None:
    pids = {int(word) for word in read_text(f"{own}/cgroup.procs").split()} - {os.getpid()}
    if pids:
        text = f"{own} is not ours alone ({len(pids)} other processes are in it)"
        raise OSError(errno.EBUSY, f"{text}; systemd: Delegate=yes")


def _move_to_leaf(own: str) -> None:
    leaf = os.path.join(own, LEAF)
    with contextlib.suppress(FileExistsError):
        _make(leaf)
    try:
        Group(leaf).join()
    except OSError:
        Group(leaf).remove()
        raise


def _enable(base: str, controller: str) -> bool:
    if controller not in read_text(f"{base}/cgroup.controllers").split():
        return False
    return _try_write(f"{base}/cgroup.subtree_control", f"+{controller}")


# Folders and interface files.


def _make(path: str) -> None:
    os.mkdir(path, 0o755)
    template = _template(path)
    for name in names_in(template):
        shutil.copy(os.path.join(template, name), path)


def _remove(path: str) -> None:
    if names_in(_template(path)):
        if any(os.path.exists(f"/proc/{pid}") for pid in Group(path).pids()):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        shutil.rmtree(path)
    else:
        os.rmdir(path)


def _give(path: str, owner: tuple[int, int]) -> None:
    os.chown(path, *owner)


def _template(path: str) -> str:
    return os.path.join(os.path.dirname(path), ".new-group")


def _write(path: str, text: str) -> None:
    # Not made, not cut, and in one call: each write is a command of its own.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"{text}\n".encode())
    except OSError as found:
        raise OSError(found.errno, found.strerror, path) from None
    finally:
        os.close(descriptor)


def _try_write(path: str, text: str, fine: tuple[int, ...] = ()) -> bool:
    try:
        _write(path, text)
    except OSError as found:
        if found.errno in fine:
            return True
        if found.errno not in _ENOTSUP:
            log.warning(f"cgroups: {path}: {found.strerror}")
        return False
    return True
