"""What the managers look at by themselves, now and then: idle time, memory, CPU time, the clock.

Rules: a look costs nothing while nothing was asked for: without limits there is no timer. What the
core can tell by an event (requests served, demand) is not looked at.

Theory of operation. Each look has a time of its own; `next_at` is the earliest. Idle time is
measured by the core's last activity: a timer that finds activity moves to when the pool would be
idle. CPU time is that of all workers together, also of those that have ended meanwhile; a window
that has passed begins anew, whatever was used in it.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from kernelq.config import PoolSettings
from kernelq.pool import probes
from kernelq.pool.member import Member
from kernelq.pool.model import Event, Kind
from kernelq.pool.schedule import next_time
from kernelq.units import MIB, SECOND

MEMORY_EVERY_NS = 5 * SECOND
CPU_LOOKS = 20  # per window
CPU_EVERY_NS = SECOND  # at most so often
CLOCK_EVERY_NS = 60 * SECOND  # somebody may set the clock: look at it again after


class Core(Protocol):
    """What a watch asks of the core."""

    def pool_info(self, pool: int) -> dict[str, Any]: ...


class Watch:
    """The looks of one pool."""

    def __init__(
        self, core: Core, pool: int, settings: PoolSettings, wall: Callable[[], float] = time.time
    ) -> None:
        self._core = core
        self._pool = pool
        self._wall = wall
        self._times: dict[str, int] = {}
        self._scheduled = 0.0  # the next clock time of the schedule, by the wall clock
        self._idle_since = 0
        self._cpu_base: dict[int, int] = {}  # by worker: spent before the window
        self._cpu_used: dict[int, int] = {}  # spent within it
        self._cpu_gone = 0  # of workers that ended within the window
        self._cpu_window_ends = 0
        self._is_over_cpu = False
        self.configure(settings)

    @property
    def next_at(self) -> int | None:
        """When look() is due, by the monotonic clock; None: never."""
        return min(self._times.values(), default=None)

    def configure(self, settings: PoolSettings, members: Iterable[Member] = ()) -> None:
        """New settings: every look begins anew. members: those that are older than the settings."""
        self._settings = settings
        self._times.clear()
        if not settings.is_managed:
            return
        now = time.monotonic_ns()
        recycling = settings.recycling
        if settings.idle_timeout_ns and settings.start_mode == "on_demand":
            self._times["idle"] = now + settings.idle_timeout_ns
        if recycling.memory or recycling.private_memory:
            self._times["memory"] = now + MEMORY_EVERY_NS
        if settings.cpu.limit:
            self._begin_window(now, _cpu_of(members))
            self._times["cpu"] = now + self._cpu_every()
        if recycling.schedule:
            self._scheduled = next_time(recycling.schedule, self._wall())
            self._times["clock"] = now + self._until_scheduled()

    def look(self, now: int, members: Iterable[Member]) -> list[Event]:
        """What is due now, as events for the plan. members: those that are READY."""
        events: list[Event] = []
        looks = {
            "idle": self._look_idle,
            "memory": self._look_memory,
            "cpu": self._look_cpu,
            "clock": self._look_clock,
        }
        ready = list(members)
        for name, at in list(self._times.items()):
            if now >= at:
                self._times[name] = looks[name](now, ready, events)
        return events

    def _look_idle(self, now: int, members: list[Member], events: list[Event]) -> int:
        info = self._core.pool_info(self._pool)
        timeout = self._settings.idle_timeout_ns
        since = max(int(info["last_activity_ns"]), self._idle_since)
        is_busy = info["queued"] or info["executing"]
        if self._idle_since and (is_busy or int(info["last_activity_ns"]) > self._idle_since):
            self._idle_since = 0
            events.extend(Event(Kind.ACTIVE, member.key) for member in members)
        if is_busy:
            return now + timeout
        if now < since + timeout:
            return since + timeout
        self._idle_since = now
        events.extend(Event(Kind.IDLE, member.key) for member in members)
        return now + timeout

    def _look_memory(self, now: int, members: list[Member], events: list[Event]) -> int:
        recycling = self._settings.recycling
        for member in members:
            resident = probes.resident_bytes(member.pid)
            if recycling.memory and resident > recycling.memory:
                text = _of_limit(resident, recycling.memory, "resident")
                events.append(Event(Kind.MEMORY_LIMIT, member.key, text=text))
            elif recycling.private_memory and resident > recycling.private_memory:
                # What is private is at most what is resident, and dear to find out.
                private = probes.private_bytes(member.pid)
                if private > recycling.private_memory:
                    text = _of_limit(private, recycling.private_memory, "private")
                    events.append(Event(Kind.PRIVATE_MEMORY_LIMIT, member.key, text=text))
        return now + MEMORY_EVERY_NS

    def _look_cpu(self, now: int, members: list[Member], events: list[Event]) -> int:
        used = _cpu_of(members)
        cpu = self._settings.cpu
        for key, before in list(self._cpu_used.items()):
            if key not in used:
                self._cpu_gone += before
                del self._cpu_used[key]
        if now >= self._cpu_window_ends:
            self._begin_window(now, used)
            events.append(Event(Kind.CPU_INTERVAL))
            return now + self._cpu_every()
        self._cpu_used = {key: spent - self._cpu_base.get(key, 0) for key, spent in used.items()}
        total = self._cpu_gone + sum(self._cpu_used.values())
        if total > cpu.interval_ns * cpu.limit / 100 and not self._is_over_cpu:
            self._is_over_cpu = True
            seconds = total / SECOND
            text = f"{seconds:.1f} s of CPU time within {cpu.interval_ns / SECOND:g} s"
            events.append(Event(Kind.CPU_LIMIT, text=text))
        return now + self._cpu_every()

    def _look_clock(self, now: int, members: list[Member], events: list[Event]) -> int:
        del members
        wall = self._wall()
        if wall >= self._scheduled:
            self._scheduled = next_time(self._settings.recycling.schedule, wall)
            events.append(Event(Kind.SCHEDULE))
        return now + self._until_scheduled()

    def _until_scheduled(self) -> int:
        seconds = max(0.0, self._scheduled - self._wall())
        return min(CLOCK_EVERY_NS, round(seconds * SECOND) + 1)

    def _begin_window(self, now: int, base: dict[int, int]) -> None:
        self._cpu_window_ends = now + self._settings.cpu.interval_ns
        self._cpu_base = base
        self._cpu_used = {}
        self._cpu_gone = 0
        self._is_over_cpu = False

    def _cpu_every(self) -> int:
        return max(CPU_EVERY_NS, self._settings.cpu.interval_ns // CPU_LOOKS)


def _cpu_of(members: Iterable[Member]) -> dict[int, int]:
    # Nothing: it has not begun, or it has died and the core has not said so yet.
    return {member.key: spent for member in members if (spent := probes.cpu_ns(member.pid))}


def _of_limit(found: int, limit: int, kind: str) -> str:
    return f"{found / MIB:.1f} MiB of {kind} memory, allowed are {limit / MIB:.1f} MiB"
