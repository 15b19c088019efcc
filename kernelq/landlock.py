"""Landlock: a process gives up, for itself and all its children, whatever part of the file system
it was not granted. It needs no root.

Facts: system calls 444 to 446, since Linux 5.13; the kernel says which version of the interface it
has, and an action that it does not know must not be named to it. A rule holds for what a path leads
to when it is added, whatever is mounted or linked there later. What is open already stays usable.
A restricted process cannot trace one outside, which covers /proc/PID/mem, fd and environ, and from
version 6 on it cannot send signals to one. Moving files between folders (REFER) is denied unless it
is handled and granted. A rule for a file may name only actions on files. Not covered: stat, chdir,
chmod and chown, and connecting to the sockets of others.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kernelq import linux

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WANT_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_ALL_OF_VERSION_1 = (1 << 13) - 1
_REFER = 1 << 13  # since version 2
_TRUNCATE = 1 << 14  # 3
_IOCTL_DEV = 1 << 15  # 5
_SCOPE_SIGNAL = 1 << 1  # 6; the first scope, abstract sockets, is none of our business

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

# What programs expect of any system, over and above the folders of the interpreter.
SYSTEM_PLACES = (
    "/bin",
    "/dev/random",
    "/dev/urandom",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/proc",
    "/sbin",
    "/sys/devices/system",
    "/usr",
)
SYSTEM_SINKS = ("/dev/full", "/dev/null", "/dev/zero")


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


@dataclass(frozen=True, slots=True)
class Grants:
    """What a process may still reach: `places` and `sinks` if they are there, the others for
    certain.
    """

    read_only: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    places: tuple[str, ...] = SYSTEM_PLACES
    sinks: tuple[str, ...] = SYSTEM_SINKS


def version() -> int:
    """The version of the kernel's interface; 0 without Landlock."""
    try:
        return linux.call(_CREATE_RULESET, None, 0, _WANT_VERSION)
    except OSError as found:
        if found.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0  # too old, switched off at boot, or forbidden by seccomp
        raise


def handled_actions(known: int) -> int:
    """Every action on files that this version of the interface can deny."""
    actions = _ALL_OF_VERSION_1
    actions |= _REFER if known >= 2 else 0
    actions |= _TRUNCATE if known >= 3 else 0
    return actions | (_IOCTL_DEV if known >= 5 else 0)


def restrict(grants: Grants, known: int) -> None:
    """Give up everything but what is granted, for good; the caller has no_new_privs, or is root.

    OSError with the path's name when one that must be granted cannot be opened.
    """
    ruleset = _make_ruleset(known)
    try:
        handled = handled_actions(known)
        read = _READ
        write = handled & ~_IOCTL_DEV
        _grant(ruleset, grants.places, read, is_needed=False)
        _grant(ruleset, grants.sinks, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & handled, False)
        _grant(ruleset, grants.read_only, read, is_needed=True)
        _grant(ruleset, grants.writable, write, is_needed=True)
        linux.call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _make_ruleset(known: int) -> int:
    attributes = _RulesetAttributes(handled_actions(known), 0, _SCOPE_SIGNAL if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8  # older kernels know fewer fields
    return linux.call(_CREATE_RULESET, ctypes.byref(attributes), size, 0)


def _grant(ruleset: int, paths: Iterable[str], actions: int, is_needed: bool) -> None:
    for path in paths:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            if is_needed:
                raise
            continue  # not there, or out of this user's reach anyhow
        try:
            is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            allowed = actions if is_folder else actions & _ON_FILES
            rule = _PathBeneath(allowed, descriptor)
            linux.call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(descriptor)


def outermost(paths: Sequence[str]) -> tuple[str, ...]:
    """The absolute paths without those that lie below another one."""
    kept: list[str] = []
    for path in sorted({os.path.realpath(path) for path in paths if path}):
        if not any(is_below(path, folder) for folder in kept):
            kept.append(path)
    return tuple(kept)


def is_below(path: str, folder: str) -> bool:
    """Whether it is the folder, or in it; both are real paths."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
