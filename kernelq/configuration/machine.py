"""What a configuration asks of this machine: users, groups, folders, interpreters, processors."""

import functools
import os
import resource

from kernelq.config import PoolSettings
from kernelq.configuration.errors import Path
from kernelq.configuration.kinds import UNLIMITED
from kernelq.configuration.read import Checked, CheckedPool, Reader
from kernelq.identity import id_in


def check_server(reader: Reader, server: Checked) -> None:
    """The server's own user, groups and folders; the first that is asked of a file."""
    # Users and groups may have come since the last file was read.
    _ids_of.cache_clear()
    _gid_of.cache_clear()
    _check_identity(reader, server)
    _check_group(reader, server, "control_readers")
    check_directory(reader, server, "spill_dir")


def check_pool(reader: Reader, pool: CheckedPool, settings: PoolSettings) -> None:
    """What a worker process of the pool is to be."""
    process, cpu = pool.parts["pool.process"], pool.parts["pool.cpu"]
    check_directory(reader, pool.own, "directory")
    _check_identity(reader, process)
    _check_groups(reader, process)
    python = settings.process.python
    if python and not (os.path.isfile(python) and os.access(python, os.X_OK)):
        reader.refuse(process.path_of("python"), python, "a Python interpreter that can be run")
    for name in ("read_only", "writable"):
        for number, path in enumerate(process.values[name]):
            if not os.path.exists(path):
                _report_absent(reader, (*process.path_of(name), number), "file or folder", path)
    count = os.cpu_count() or 1
    if settings.cpu.affinity and settings.cpu.affinity[-1] >= count:
        reader.report(
            cpu.path_of("affinity"),
            f"found CPU {settings.cpu.affinity[-1]}, allowed are 0 to {count - 1}: this machine "
            f"has {count}",
        )
    if os.geteuid() != 0:
        _check_privileges(reader, process, settings)


def check_directory(reader: Reader, table: Checked, name: str) -> None:
    """A folder that the file names exists."""
    path = table.values[name]
    if path and name in table.origins and not os.path.isdir(path):
        reader.refuse(table.origins[name], path, "a directory that exists")


def _report_absent(reader: Reader, path: Path, what: str, value: str) -> None:
    reader.report(path, f"there is no {what} {reader.found(path, value)}")


def _check_groups(reader: Reader, process: Checked) -> None:
    """Supplementary groups, which only root may choose."""
    groups = process.values["groups"]
    gids = {_gid_of(group) for group in groups or ()}
    if None in gids:
        for number, group in enumerate(groups):
            if _gid_of(group) is None:
                _report_absent(reader, (*process.path_of("groups"), number), "group", group)
        return
    chosen = groups is not None and gids | {os.getegid()} != {*os.getgroups(), os.getegid()}
    if chosen and os.geteuid() != 0:
        reader.report(process.path_of("groups"), "no permission: only root may choose groups")


def _check_identity(reader: Reader, table: Checked) -> None:
    user, group = table.values["user"], table.values["group"]
    uid, gid = os.geteuid(), os.getegid()
    if user:
        found = _ids_of(user)
        if found is None:
            _report_absent(reader, table.path_of("user"), "user", user)
            return
        uid, gid = found
    if group and _check_group(reader, table, "group"):
        gid = _gid_of(group) or 0
    if os.geteuid() != 0 and (uid, gid) != (os.geteuid(), os.getegid()):
        named = "user" if user else "group"
        found_text = reader.found(table.path_of(named), table.values[named])
        reader.report(
            table.path_of(named),
            f"no permission to become {named} {found_text}: only root may change user or group",
        )


def _check_group(reader: Reader, table: Checked, name: str) -> bool:
    group = table.values[name]
    if group and _gid_of(group) is None:
        _report_absent(reader, table.path_of(name), "group", group)
        return False
    return True


@functools.lru_cache(1024)
def _ids_of(user: str) -> tuple[int, int] | None:
    import pwd

    number = id_in(user)
    try:
        found = pwd.getpwnam(user) if number is None else pwd.getpwuid(number)
    except KeyError:
        return None if number is None else (number, number)
    return found.pw_uid, found.pw_gid


@functools.lru_cache(1024)
def _gid_of(group: str) -> int | None:
    import grp

    number = id_in(group)
    try:
        return grp.getgrnam(group).gr_gid if number is None else number
    except KeyError:
        return None


def _check_privileges(reader: Reader, process: Checked, settings: PoolSettings) -> None:
    """What only root may ask for."""
    if settings.process.nice < 0:
        reader.refuse(process.path_of("nice"), settings.process.nice, "0 to 19 without root")
    for name, _, hard in settings.process.rlimits:
        ours = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
        if ours != resource.RLIM_INFINITY and (hard == UNLIMITED or hard > ours):
            reader.report(
                (*process.path_of("rlimits"), name),
                f"the hard limit here is {ours}, and only root may raise it",
            )
