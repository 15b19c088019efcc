"""What the kernel says of a process: memory, processor time, state; and the putting to sleep of an
idle one, where its control group cannot do it.

Everything here may be asked of a process that has just died: the answer is nothing then, 0 or "".

Facts: `smaps_rollup` walks all of a process's memory (milliseconds for a large one), and needs the
right to trace it: workers are not dumpable, so only root, or the worker itself, may ask; `statm`
and `status` anybody. Processor time of ended children counts only once they have been waited for.
Pushing out pages of another process needs the right to trace it and CAP_SYS_NICE, its own needs
nothing: a worker does it to itself, when it is told to. Anonymous memory leaves only if there is
swap; without it, what leaves is heap that the C library has kept for later.
"""

import ctypes
import errno
import os
import resource
from collections.abc import Iterator

from kernelq import linux

_PROCESS_MADVISE = 440
_MADV_PAGEOUT = 21
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = resource.getpagesize()
_RANGES_MAX = 1024  # of one call (IOV_MAX)
_DENIED = (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM)


class _Range(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("bytes", ctypes.c_size_t))


def resident_bytes(pid: int) -> int:
    """Memory that it has, shared or not (RSS)."""
    words = _read(f"/proc/{pid}/statm").split()
    return int(words[1]) * _PAGE if len(words) > 1 else 0


def private_bytes(pid: int) -> int:
    """Memory that no other process has, swapped out or not: what its end would free.

    Where we may not look closer, all its memory without a file: what a zygote's children still
    share is in it then.
    """
    names: tuple[str, ...] = ("Private_Clean", "Private_Dirty", "Private_Hugetlb", "Swap")
    text = _read(f"/proc/{pid}/smaps_rollup")
    if not text:
        names = ("RssAnon", "VmSwap")
        text = _read(f"/proc/{pid}/status")
    lines = (line.partition(":") for line in text.splitlines())
    return sum(int(rest.split()[0]) * 1024 for name, _, rest in lines if name in names)


def memory_kib(pid: int) -> tuple[int, int]:
    """Resident and private memory, for people."""
    return resident_bytes(pid) // 1024, private_bytes(pid) // 1024


def cpu_ns(pid: int) -> int:
    """Processor time of it and of those of its children that it has waited for."""
    fields = _stat_fields(pid)
    ticks = sum(int(word) for word in fields[11:15])  # utime, stime, cutime, cstime
    return ticks * (1_000_000_000 // _TICKS)


def state(pid: int) -> str:
    """R running, S asleep, D in the kernel, T stopped, t traced, Z dead; "": gone."""
    fields = _stat_fields(pid)
    return fields[0] if fields else ""


def _stat_fields(pid: int) -> list[str]:
    # The name, in parentheses, is the process's own choice; what follows its last one is not.
    text = _read(f"/proc/{pid}/stat").rpartition(")")[2]
    return text.split()


def suspend(pid: int) -> int | None:
    """Push out the anonymous memory of another process; how much was asked for, None: not allowed.

    It is not stopped: its doorbell wakes it as ever, and it takes back what it touches.
    """
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        return _push_out(process, list(_anonymous(pid)))
    except OSError as found:
        if found.errno in (*_DENIED, errno.ENOSYS, errno.EINVAL):
            return None
        raise
    finally:
        os.close(process)


def suspend_self() -> int:
    """Push out this process's own memory, as far as there is somewhere to put it."""
    linux.trim_heap()
    asked = 0
    for start, end in _anonymous(os.getpid()):
        try:
            linux.advise_memory(start, end - start, _MADV_PAGEOUT)
        except OSError:
            continue  # locked, or unmapped meanwhile
        asked += end - start
    return asked


def _push_out(process: int, ranges: list[tuple[int, int]]) -> int | None:
    if not ranges:
        return None
    asked = 0
    for at in range(0, len(ranges), _RANGES_MAX):
        some = ranges[at : at + _RANGES_MAX]
        vector = (_Range * len(some))(*[_Range(start, end - start) for start, end in some])
        asked += linux.call(_PROCESS_MADVISE, process, vector, len(some), _MADV_PAGEOUT, 0)
    return asked


def _anonymous(pid: int) -> Iterator[tuple[int, int]]:
    """Private memory without a file: address, end. Stacks are left alone: they are in use."""
    for line in _read(f"/proc/{pid}/maps").splitlines():
        words = line.split(maxsplit=5)
        if len(words) < 5 or not words[1].startswith("rw") or not words[1].endswith("p"):
            continue
        if words[4] != "0" or words[5:] not in ([], ["[heap]"]):
            continue
        start, _, end = words[0].partition("-")
        yield int(start, 16), int(end, 16)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as found:
        if found.errno not in _DENIED:
            raise
        return ""
