"""What Python 3.11 lacks of Linux, and the process-wide settings of kernelq's processes."""

import ctypes
import errno
import os
import resource
import signal
from collections.abc import Iterable

from kernelq.errors import StartError

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_SLAVE = 0x2, 0x4, 0x4000, 0x80000

_F_ADD_SEALS = 1033
_F_SEAL_FUTURE_WRITE = 0x10
_F_SEAL_SHRINK = 0x2

DESCRIPTORS_WANTED_MAX = 1_048_576

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_prctl.restype = ctypes.c_int
_mount = _libc.mount
_mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_unshare = _libc.unshare
_unshare.argtypes = [ctypes.c_int]
_madvise = _libc.madvise
_madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _call_prctl(option: int, value: int) -> None:
    if _prctl(option, value, 0, 0, 0) < 0:
        raise _last_error()


def call(number: int, *arguments: object) -> int:
    """A system call by its number, for those that C libraries have no name for; OSError when it
    fails. Whole numbers must fit a long; pointers come as ctypes makes them.
    """
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result: int = _syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise _last_error()
    return result


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def read_text(path: str) -> str:
    """What a file of the kernel says; "": it is not there, or not for us."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def names_in(folder: str) -> list[str]:
    """Of all that is in it; none, if it cannot be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def fork_with_pipe() -> tuple[int, int, int]:
    """os.fork(), and a pipe that both have: (pid, reader, writer). OSError: nothing is open."""
    reader, writer = os.pipe()
    try:
        return os.fork(), reader, writer
    except OSError:
        os.close(reader)
        os.close(writer)
        raise


def trim_heap() -> None:
    """Give back what the C library keeps of freed memory, where it knows how to."""
    trim = getattr(_libc, "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def advise_memory(address: int, size: int, advice: int) -> None:
    """madvise() for memory of our own."""
    if _madvise(address, size, advice) < 0:
        raise _last_error()


def leave_mount_namespace() -> None:
    """What is mounted from here on, only this process and its children see; what others mount
    later still appears here.
    """
    if _unshare(_CLONE_NEWNS) < 0 or _mount(None, b"/", None, _MS_REC | _MS_SLAVE, None) < 0:
        raise _last_error()


def mount_tmpfs(path: str, options: str) -> None:
    """An empty file system in memory."""
    flags = _MS_NOSUID | _MS_NODEV
    if _mount(b"tmpfs", os.fsencode(path), b"tmpfs", flags, options.encode()) < 0:
        raise _last_error()


def forbid_inspection() -> None:
    """No ptrace, no /proc/PID/mem, no core file: not even for a sibling of the same user."""
    _call_prctl(_PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """No set-user-id program run from here gains anything."""
    _call_prctl(_PR_SET_NO_NEW_PRIVS, 1)


def adopt_orphans(wanted: bool = True) -> None:
    """Become the parent of every descendant whose own parent ends, or do not any more."""
    _call_prctl(_PR_SET_CHILD_SUBREAPER, wanted)


def die_with_parent(parent: int) -> bool:
    """Ask for SIGKILL at the parent's death; False when it has died already.

    Cleared by setuid, so this comes after it; a parent that died before the call would never be
    noticed, hence the look at getppid().
    """
    _call_prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def name_process(name: str) -> None:
    """What ps and top show; the kernel keeps 15 characters."""
    text = ctypes.create_string_buffer(name.encode("ascii"))
    _call_prctl(_PR_SET_NAME, ctypes.addressof(text))


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor above standard error except those named."""
    low = 3
    for descriptor in sorted({fd for fd in keep if fd > 2}):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, _descriptor_limit())


def empty_input() -> None:
    """Standard input reads as empty from here on, also where it was closed."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == 0:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, 0)
        os.close(null)


def descriptor_soft_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def require_descriptors(needed: int) -> None:
    """StartError when the soft limit cannot be raised to what is needed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise StartError(
            f"too few descriptors: {needed} are needed, the hard limit is {hard} "
            "(raise it with ulimit -Hn or LimitNOFILE=, or lower --max-connections or --workers)"
        )


def raise_descriptor_limit() -> None:
    """Raise the soft limit as far as it is of use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = DESCRIPTORS_WANTED_MAX
    if hard != resource.RLIM_INFINITY:
        ceiling = min(ceiling, hard)
    if soft != resource.RLIM_INFINITY and soft < ceiling:
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))


def check_kernel() -> None:
    """StartError when this kernel (or what confines us) lacks a call that kernelq stands on."""
    release = os.uname().release
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError) as found:
        raise StartError(_lacks(release, "pidfd_open", "5.3", found)) from None
    try:
        _seal_memory()
    except (OSError, AttributeError) as found:
        raise StartError(_lacks(release, "F_SEAL_FUTURE_WRITE", "5.1", found)) from None


def _seal_memory() -> None:
    import fcntl

    from kernelq import sealed

    descriptor = sealed.create("kernelq-check")
    try:
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _F_SEAL_FUTURE_WRITE | _F_SEAL_SHRINK)
    finally:
        os.close(descriptor)


def _lacks(release: str, call: str, since: str, found: BaseException) -> str:
    refused = isinstance(found, PermissionError)
    why = "is forbidden here (seccomp?)" if refused else f"is missing (Linux {since} brought it)"
    return f"kernel too old: this is Linux {release} and {call} {why}"


def _descriptor_limit() -> int:
    # Descriptors opened before a soft limit was lowered may lie above it; /proc knows the highest
    # one.
    try:
        return max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    except OSError as found:
        if found.errno not in (errno.ENOENT, errno.EACCES, errno.EMFILE):
            raise
        return min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], DESCRIPTORS_WANTED_MAX)
