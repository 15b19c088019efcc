"""What a worker process is before its first line of Python runs: everything between the spawner's
fork and the interpreter's start.

Rules: what can be looked up, computed or checked is done before the fork (`prepare`), so that the
child does little and a pool that cannot be started is known with words; a child that cannot become
what it shall be is never started, and says why in one line.

Order in the child, and why: own session (no terminal's signals); cgroup, limits, nice, CPUs and
mounts while it may (they can need root); groups, then gid, then uid; no_new_privs; Landlock, which
needs that and must come before any thread; PR_SET_PDEATHSIG last, since a change of user clears it,
followed by a look at getppid(). The umask is set by the worker, with its letter.

Facts: a pipe that is closed by a successful exec tells the spawner that it succeeded. A process is
alone in its session's autogroup, if the kernel has those: nice then counts only within it, so that
the autogroup is told too. RLIMIT_NPROC is checked by execve after a change of user.
"""

import contextlib
import os
import resource
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

from kernelq import landlock, linux, log
from kernelq.cgroup import Group
from kernelq.config import PoolSettings
from kernelq.errors import StartError
from kernelq.identity import Identity, find_identity, require_interpreter
from kernelq.interpreter import ROOT, Interpreter, find_interpreter
from kernelq.letters import EXIT_NOT_MADE, EXIT_ORPHANED
from kernelq.link import Link
from kernelq.processes import fork_process
from kernelq.signals import restore_defaults

REPORT_BYTES_MAX = 2000
NICE_MIN, NICE_MAX = -20, 19
HIDDEN_FOLDERS = ("/tmp", "/var/tmp")
_TMPFS_OPTIONS = "mode=1777,size=10%,nr_inodes=400k"

# What was said to this server's own processes, and to nobody else.
_OURS = {"MAINPID", "MANAGERPID", "NOTIFY_SOCKET", "SYSTEMD_EXEC_PID"}
_OURS_BY_PREFIX = ("KERNELQ_", "LISTEN_", "WATCHDOG_")
_DEBUG_HOOKS = ("KERNELQ_FAULT", "KERNELQ_FAULT_TOKEN")  # debug builds kill workers with them
# What belongs to the session of whoever started the server.
_OF_A_LOGIN = {"DBUS_SESSION_BUS_ADDRESS", "MAIL", "XAUTHORITY"}
_OF_A_LOGIN_BY_PREFIX = ("SSH_", "SUDO_", "XDG_")
# What would lead another interpreter to this one's files.
_OF_THIS_PYTHON = {"PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
_TMP_NAMES = ("TMPDIR", "TMP", "TEMP")


@dataclass(frozen=True, slots=True)
class Launch:
    """What was found out about a pool's processes before the first is made."""

    pool: PoolSettings
    identity: Identity
    interpreter: Interpreter
    environment: dict[str, str]
    rlimits: tuple[tuple[str, int, int, int], ...] = ()  # name, number, soft, hard
    cpus: frozenset[int] = frozenset()  # empty: all
    cgroup: str = ""  # the pool's folder; "": none
    mounts_tmp: bool = False
    needs_tmp_folder: bool = False
    grants: landlock.Grants | None = None
    landlock_version: int = 0
    notes: tuple[tuple[int, str], ...] = ()  # level, text: what is weaker than was asked for


def prepare(pool: PoolSettings, cgroup: str = "") -> Launch:
    """Look up and check all that a process of the pool needs. StartError names pool and setting.

    cgroup: the folder of the pool's control group. Calls that fork: single-threaded processes only.
    """
    try:
        return _prepare(pool, cgroup)
    except StartError as found:
        raise StartError(f"pool {pool.name}: {found}") from None


def _prepare(pool: PoolSettings, cgroup: str) -> Launch:
    process = pool.process
    try:
        identity = find_identity(process.user, process.group, process.groups)
    except StartError as found:
        raise StartError(str(found).removeprefix("--")) from None
    environment = make_environment(os.environ, pool, identity)
    interpreter = find_interpreter(process.python, identity, environment)
    if interpreter.is_own:
        require_interpreter(identity)
    if not NICE_MIN <= process.nice <= NICE_MAX:
        raise StartError(f"nice: found {process.nice}, allowed is {NICE_MIN} to {NICE_MAX}")
    notes: list[tuple[int, str]] = []
    mounts_tmp = process.private_tmp and can_mount()
    if process.private_tmp:
        _check_tmp(pool, interpreter, mounts_tmp, notes)
    known, grants = _find_grants(pool, interpreter, identity, notes)
    return Launch(
        pool,
        identity,
        interpreter,
        environment,
        rlimits=_find_rlimits(pool),
        cpus=_find_cpus(pool),
        cgroup=cgroup,
        mounts_tmp=mounts_tmp,
        needs_tmp_folder=process.private_tmp and not mounts_tmp,
        grants=grants,
        landlock_version=known,
        notes=tuple(notes),
    )


# What is found out beforehand.


def make_environment(
    inherited: Mapping[str, str], pool: PoolSettings, identity: Identity
) -> dict[str, str]:
    """The pool's variables, over what the server was started with and a worker may know."""
    process = pool.process
    unwanted: set[str] = set()
    if process.python:
        unwanted |= _OF_THIS_PYTHON
    if process.private_tmp:
        unwanted |= set(_TMP_NAMES)
    environment = clean_environment(inherited, identity, unwanted)
    for name, value in process.environment:
        if not name or "=" in name or "\0" in name + value:
            raise StartError(f"environment: {name!r} cannot be the name of a variable")
        environment[name] = value
    return environment


def clean_environment(
    inherited: Mapping[str, str], identity: Identity, unwanted: Collection[str] = ()
) -> dict[str, str]:
    """What the server was started with, as a process of that user may see it."""
    unwanted = {*unwanted, *_OURS}
    prefixes: tuple[str, ...] = _OURS_BY_PREFIX
    if identity.uid >= 0:
        unwanted |= _OF_A_LOGIN
        prefixes += _OF_A_LOGIN_BY_PREFIX
    environment = {
        name: value
        for name, value in inherited.items()
        if name in _DEBUG_HOOKS or not (name in unwanted or name.startswith(prefixes))
    }
    return environment | identity.login_environment()


def _find_rlimits(pool: PoolSettings) -> tuple[tuple[str, int, int, int], ...]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    own = pool.process.descriptor_limit
    soft = own if hard == resource.RLIM_INFINITY else min(own, hard)
    found = {"nofile": ("nofile", resource.RLIMIT_NOFILE, soft, hard)}
    for name, soft, hard in pool.process.rlimits:
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None:
            raise StartError(f"rlimits: found {name!r}, allowed are {', '.join(rlimit_names())}")
        if hard != -1 and not 0 <= soft <= hard:
            raise StartError(f"rlimits: {name}: the soft limit is to be at most the hard one")
        _, most = resource.getrlimit(number)
        if os.geteuid() != 0 and most != -1 and not 0 <= hard <= most:
            raise StartError(
                f"rlimits: {name}: the hard limit may not be above {most} (only root may raise it)"
            )
        found[name] = (name, number, soft, hard)
    return tuple(found.values())


def rlimit_names() -> list[str]:
    """The limits that this system has, by the names that settings give them."""
    prefix = "RLIMIT_"
    names = [name for name in dir(resource) if name.startswith(prefix)]
    return sorted(name.removeprefix(prefix).lower() for name in names)


def _find_cpus(pool: PoolSettings) -> frozenset[int]:
    wanted = frozenset(pool.cpu.affinity)
    allowed = os.sched_getaffinity(0)
    if not wanted <= allowed:
        strange = ", ".join(map(str, sorted(wanted - allowed)))
        raise StartError(
            f"affinity: there is no CPU {strange} for us, allowed are {describe_cpus(allowed)}"
        )
    return wanted


def describe_cpus(cpus: set[int]) -> str:
    """0-3, 6: as the kernel writes them."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][-1] == cpu - 1:
            runs[-1][1:] = [cpu]
        else:
            runs.append([cpu])
    return ", ".join("-".join(map(str, run)) for run in runs)


def can_mount() -> bool:
    """Whether a process of ours may have mounts of its own: found out by a child that tries."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            linux.leave_mount_namespace()
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _check_tmp(
    pool: PoolSettings, interpreter: Interpreter, mounts: bool, notes: list[tuple[int, str]]
) -> None:
    if not mounts:
        text = (
            "private_tmp: no right to mount here: TMPDIR names a folder of each worker's own, "
            "but /tmp itself stays shared"
        )
        notes.append((log.INFO, text))
        return
    process = pool.process
    needed = [pool.directory, *(one.directory for one in pool.applications), interpreter.path]
    needed += [ROOT] if interpreter.is_own else []
    for path in (*needed, *process.read_only, *process.writable):
        real = os.path.realpath(path)
        for folder in HIDDEN_FOLDERS:
            if landlock.is_below(real, folder) and path not in HIDDEN_FOLDERS:
                raise StartError(
                    f"private_tmp: {path} lies in {folder}, where the workers would not see it"
                )


def _find_grants(
    pool: PoolSettings, interpreter: Interpreter, identity: Identity, notes: list[tuple[int, str]]
) -> tuple[int, landlock.Grants | None]:
    process = pool.process
    if not process.read_only and not process.writable:
        return 0, None
    known = landlock.version()
    if known == 0:
        release = os.uname().release
        text = f"read_only, writable: Linux {release} has no Landlock here: nothing is restricted"
        notes.append((log.WARNING, text))
        return 0, None
    if not process.no_new_privileges and (identity.uid or os.geteuid()):
        raise StartError("read_only and writable need no_new_privileges = true")
    directories = [pool.directory, *(one.directory for one in pool.applications)]
    places = [*landlock.SYSTEM_PLACES, *interpreter.places, *map(os.path.abspath, directories)]
    # A link to what the resolver's own service writes, below /run.
    places.append(os.path.dirname(os.path.realpath("/etc/resolv.conf")))
    return known, landlock.Grants(
        read_only=process.read_only, writable=process.writable, places=tuple(places)
    )


# The way from fork to exec.


def start(launch: Launch, module: str, link: Link, tmp_folder: str = "") -> tuple[int, int]:
    """A new process of the pool that runs the module's main with the link.

    Gives its pid, and a descriptor that ends when it runs: without a word if it has become what it
    shall be, or with the words that say why not.
    """
    parent = os.getpid()
    pid, reader, writer = linux.fork_with_pipe()
    if pid == 0:
        _become_or_report(launch, parent, module, link.fileno(), writer, tmp_folder)
    os.close(writer)
    return pid, reader


def _become_or_report(
    launch: Launch, parent: int, module: str, descriptor: int, report: int, tmp_folder: str
) -> NoReturn:
    try:
        restore_defaults()
        linux.close_all_but([descriptor, report])
        become(launch, parent, module, descriptor, tmp_folder)
    except StartError as found:
        text = f"pool {launch.pool.name}: {found}"
    except BaseException as found:
        text = f"pool {launch.pool.name}: a {module} could not be started: {found!r}"
    with contextlib.suppress(OSError):
        os.write(report, text.encode("utf-8", "replace")[:REPORT_BYTES_MAX])
    os._exit(EXIT_NOT_MADE)


def read_report(reader: int) -> str | None:
    """What `start`'s descriptor said: None, that it runs; takes the descriptor."""
    try:
        text = os.read(reader, REPORT_BYTES_MAX).decode("utf-8", "replace")
    finally:
        os.close(reader)
    return text or None


def become(
    launch: Launch, parent: int, module: str, descriptor: int, tmp_folder: str = ""
) -> NoReturn:
    """Become a process of the pool, and then its interpreter. StartError: it cannot be done."""
    os.setsid()
    linux.empty_input()
    for name, change in _changes(launch, tmp_folder):
        with _named(name):
            change()
    with _named("parent"):
        if not linux.die_with_parent(parent):
            os._exit(EXIT_ORPHANED)
    environment = launch.environment
    if tmp_folder:
        environment = {**environment, **dict.fromkeys(_TMP_NAMES, tmp_folder)}
    os.set_inheritable(descriptor, True)
    with _named("python"):
        command = launch.interpreter.command(module, descriptor)
        os.execve(launch.interpreter.path, command, environment)


def _changes(launch: Launch, tmp_folder: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each setting's name, and what applies it to the calling process."""
    process = launch.pool.process
    if launch.cgroup:
        yield "cgroup", Group(launch.cgroup).join
    for name, number, soft, hard in launch.rlimits:
        yield f"rlimits: {name}", partial(resource.setrlimit, number, (soft, hard))
    if process.nice:
        yield "nice", lambda: _be_nice(process.nice)
    if launch.cpus:
        yield "affinity", lambda: os.sched_setaffinity(0, launch.cpus)
    if launch.mounts_tmp:
        yield "private_tmp", _mount_private_tmp
    yield "user", launch.identity.assume
    if process.no_new_privileges:
        yield "no_new_privileges", linux.forbid_new_privileges
    if launch.grants is not None:
        yield "read_only, writable", lambda: _restrict(launch, tmp_folder)


@contextlib.contextmanager
def _named(setting: str) -> Iterator[None]:
    """Errors of the system become errors of a setting."""
    try:
        yield
    except (OSError, ValueError) as found:
        what = getattr(found, "strerror", None) or str(found)
        filename = getattr(found, "filename", None)
        where = f"{filename}: " if filename else ""
        raise StartError(f"{setting}: {where}{what}") from None


def _be_nice(nice: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "wb", buffering=0) as file:
        file.write(str(nice).encode())


def _mount_private_tmp() -> None:
    linux.leave_mount_namespace()
    for folder in HIDDEN_FOLDERS:
        if os.path.isdir(folder) and not os.path.islink(folder):
            linux.mount_tmpfs(folder, _TMPFS_OPTIONS)


def _restrict(launch: Launch, tmp_folder: str) -> None:
    assert launch.grants is not None
    writable = [*launch.grants.writable, *([tmp_folder] if tmp_folder else [])]
    if launch.mounts_tmp:
        writable += [folder for folder in HIDDEN_FOLDERS if os.path.isdir(folder)]
    grants = replace(launch.grants, writable=tuple(writable))
    landlock.restrict(grants, launch.landlock_version)


def in_child(work: Callable[[], None], keep: Collection[int] = ()) -> int:
    """Do what may take long in a child of its own; whoever waits for children meets it some time.

    Gives its pid; 0: there could be no child, and it is left undone, which is better than the end
    of a process that others need. It keeps these descriptors only.
    """

    def main() -> int:
        work()
        return 0

    try:
        return fork_process(main, keep)
    except OSError as found:
        log.warning(f"process {os.getpid()} cannot have a child: {found.strerror}")
        return 0
