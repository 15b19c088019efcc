"""A worker process as the executor knows it, and its death in words."""

import time
from typing import TYPE_CHECKING, Any

from kernelq.status import describe_status

if TYPE_CHECKING:
    from kernelq.desk import Pending
    from kernelq.link import Link

REQUESTS_SHOWN_MAX = 8
STATUS_UNKNOWN = -1


class Member:
    """A worker process: the plan's key, the core's number (a new one for each attempt to start it),
    a pid.
    """

    __slots__ = (
        "control",
        "death_event",
        "generation",
        "info",
        "is_expected",
        "is_orphan",
        "key",
        "number",
        "pid",
        "stacks",
        "started_at",
        "status",
    )

    def __init__(self, key: int, generation: int) -> None:
        self.key = key
        self.generation = generation
        self.number = -1
        self.pid = 0
        self.started_at = time.time()
        self.control: Link | None = None
        self.status: tuple[int, int] | None = None  # wait status, largest resident size in KiB
        self.info: dict[str, Any] | None = None
        self.is_expected = False
        self.death_event = 0  # what the plan reports of its death
        self.is_orphan = False  # stopped, and left to a debugger
        self.stacks: list[Pending[Any]] = []  # who waits for them

    @property
    def who(self) -> str:
        """For the log."""
        number = f" {self.number}" if self.number >= 0 else ""
        return f"worker{number} (pid {self.pid})" if self.pid else f"worker{number}"


def describe_death(member: Member) -> str:
    """How a worker ended: signal or status, memory, and what it had in hand."""
    status, resident_kib = member.status or (STATUS_UNKNOWN, 0)
    info: dict[str, Any] = member.info or {}
    executing: list[dict[str, Any]] = info.get("executing", [])
    if status == STATUS_UNKNOWN:
        words = ["died with its spawner"]
    else:
        verb = "ended" if member.is_expected else "died"
        words = [f"{verb}: {describe_status(status)}", f"{resident_kib / 1024:.1f} MiB at most"]
    words.append(f"{info.get('served', 0)} requests served")
    if executing:
        count = info.get("casualties", 0) or len(executing)
        words.append(f"in hand: {describe_requests(executing, count)}")
    return ", ".join(words)


def describe_requests(executing: list[dict[str, Any]], count: int) -> str:
    """The requests that a worker had started, `count` in all; the first few of them in full."""
    now = time.monotonic_ns()
    shown = [
        f"{request['method']} {request['target']} of {request['client']} "
        f"for {(now - request['handed_ns']) / 1e9:.2f} s"
        for request in executing[:REQUESTS_SHOWN_MAX]
    ]
    more = count - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")
