"""What the kernel knows about a server: its processes, their CPU time, switches and memory.

Facts: /proc/PID/stat counts in clock ticks (10 ms), exited threads included, and carries the time
of children that were waited for; so a sum over a tree loses nothing when a worker is replaced.
Time in softirq over loopback falls on whoever runs: the same for every server compared.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TICK = 1 / os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def read(path: Path) -> str:
    """The file's text; nothing when the process or thread has just ended, or is not ours."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command's name: state, parent, ..."""
    return read(PROC / str(pid) / "stat").rpartition(")")[2].split()


def descendants(ancestor: int) -> list[int]:
    """Depth first: each process is followed by its own."""
    children = defaultdict(list)
    for pid in sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()):
        if fields := stat(pid):
            children[int(fields[1])].append(pid)

    def below(pid: int) -> Iterator[int]:
        for child in children[pid]:
            yield child
            yield from below(child)

    return list(below(ancestor))


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and of the children it has waited for."""
    return sum(int(field) for field in stat(pid)[11:15]) * TICK


def switches(pid: int) -> tuple[int, int]:
    """Voluntary and involuntary context switches of all threads that live."""
    counts = {"voluntary_ctxt_switches": 0, "nonvoluntary_ctxt_switches": 0}
    for task in (PROC / str(pid) / "task").glob("*"):
        for line in read(task / "status").splitlines():
            name, _, value = line.partition(":")
            if name in counts:
                counts[name] += int(value)
    return counts["voluntary_ctxt_switches"], counts["nonvoluntary_ctxt_switches"]


@dataclass(frozen=True)
class Usage:
    cpu: float = 0.0
    voluntary: int = 0
    involuntary: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.cpu + other.cpu,
            self.voluntary + other.voluntary,
            self.involuntary + other.involuntary,
        )

    def __sub__(self, other: Usage) -> Usage:
        return self + Usage(-other.cpu, -other.voluntary, -other.involuntary)


def usage(pids: list[int]) -> Usage:
    return sum((Usage(cpu_seconds(pid), *switches(pid)) for pid in pids), Usage())


@dataclass(frozen=True)
class Memory:
    """KiB of user memory: proportional share (a page of two processes counts half), private."""

    pss: int
    private: int


def memory(pid: int) -> Memory | None:
    """None where the kernel does not tell: a process that is not dumpable tells root only."""
    kib: dict[str, int] = defaultdict(int)
    for line in read(PROC / str(pid) / "smaps_rollup").splitlines()[1:]:
        name, _, value = line.partition(":")
        kib[name] = int(value.split()[0])
    return Memory(kib["Pss"], kib["Private_Clean"] + kib["Private_Dirty"]) if kib else None


def clients(port: int) -> set[int]:
    """The client ports of 127.0.0.1:port, of connections that live or ended within a minute."""
    found = set()
    for line in read(PROC / "net" / "tcp").splitlines()[1:]:
        local, remote = (int(field.partition(":")[2], 16) for field in line.split()[1:3])
        if port in (local, remote) and remote:
            found.add(remote if local == port else local)
    return found


def title(pid: int) -> str:
    """The process's own name and the beginning of its command line."""
    words = read(PROC / str(pid) / "cmdline").replace("\0", " ").split()
    line = " ".join(os.path.basename(word) for word in words)
    return f"{read(PROC / str(pid) / 'comm').strip()}: {line[:32]}"


def machine() -> str:
    """One line on what the figures were taken on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in read(PROC / "cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        os.uname().machine,
    )
    cpus = sorted(os.sched_getaffinity(0))
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    version = sys.version.split()[0]
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    system = f"Linux {os.uname().release}, Python {version}, load {load}"
    return f"{model}, {len(cpus)} CPUs, {gib:.0f} GiB, {system}"
