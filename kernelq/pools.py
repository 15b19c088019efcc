"""All pools of the service: who is meant by a name, a number, or a worker."""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from kernelq.config import PoolSettings
from kernelq.link import Link, Message
from kernelq.pool.events import EVENTS
from kernelq.pool.executor import PoolExecutor
from kernelq.pool.journal import Journal
from kernelq.pool.model import Event, Kind
from kernelq.pool.neighbours import Core

LEAVING_LOOK_NS = 50_000_000  # between two looks at what a pool that is to go still has before it


class Owner(Protocol):
    """Whom the pools serve: the service process."""

    def log(self, level: int, text: str) -> None: ...
    def watch(self, link: Link, on_readable: Callable[[], None]) -> None: ...
    def unwatch(self, link: Link) -> None: ...
    def on_pool_serving(self, pool: PoolExecutor) -> None: ...
    def on_pool_reloaded(self, pool: PoolExecutor, outcome: int) -> None: ...
    def on_pool_give_up(self, pool: PoolExecutor, text: str) -> None: ...
    def on_pool_stopped(self, pool: PoolExecutor) -> None: ...
    def on_pool_closed(self, pool: PoolExecutor) -> None: ...


class Pools:
    """The executors by name, by the core's number, and by their workers."""

    def __init__(self, core: Core, owner: Owner, journal: Journal) -> None:
        self._core = core
        self._owner = owner
        self._journal = journal
        self._spawner: Link | None = None
        self._by_name: dict[str, PoolExecutor] = {}
        self._by_number: dict[int, PoolExecutor] = {}  # also those that are being removed
        self._by_worker: dict[int, PoolExecutor] = {}
        self._leaving: dict[int, int] = {}  # by number: until when its requests may still come
        self._leaving_at: int | None = None
        self._stopped: list[PoolExecutor] = []  # to be closed

    def __iter__(self) -> Iterator[PoolExecutor]:
        """Also those that are being removed."""
        return iter(list(self._by_number.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def open(self, settings: PoolSettings, gives_up: bool) -> PoolExecutor:
        """A new pool, which has not been told to start."""
        pool = PoolExecutor(self._core, self, settings, gives_up)
        self._by_name[pool.name] = pool
        self._by_number[pool.number] = pool
        if self._spawner is not None:
            pool.set_spawner(self._spawner)
        return pool

    def remove(self, pool: PoolExecutor) -> None:
        """Nothing routes to it any more: once what was routed to it before is executing or done, it
        drains, and on_pool_stopped() follows.
        """
        if self._by_name.get(pool.name) is pool:
            del self._by_name[pool.name]
        now = time.monotonic_ns()
        patience = max(pool.settings.core.queue_timeout_ns, pool.settings.shutdown_limit_ns)
        self._leaving[pool.number] = now + patience
        # Not at once: who looked at the old routes may be about to put a request into its queue.
        self._leaving_at = now + LEAVING_LOOK_NS

    def _look_at_leaving(self, now: int) -> None:
        # Requests that came before the routes went away are executed as ever, also those whose
        # content is still on its way.
        for number, until in list(self._leaving.items()):
            pool = self._by_number[number]
            if now >= until or not self._core.pool_info(number)["unstarted"]:
                del self._leaving[number]
                pool.apply(Event(Kind.REMOVE, number=pool.settings.shutdown_limit_ns))
        self._leaving_at = now + LEAVING_LOOK_NS if self._leaving else None

    def forget(self, pool: PoolExecutor) -> None:
        """It has stopped, and nothing routes to it: tick() closes it as soon as no process of it is
        left, not even an orphan.
        """
        self._stopped.append(pool)
        self._leaving.pop(pool.number, None)
        if self._by_name.get(pool.name) is pool:
            del self._by_name[pool.name]

    def _close_buried(self, now: int) -> None:
        for pool in [one for one in self._stopped if one.is_buried]:
            try:
                pool.close()
            except ValueError:  # a loop has yet to refuse what its last worker has left
                self._leaving_at = now + LEAVING_LOOK_NS
                continue
            self._stopped.remove(pool)
            del self._by_number[pool.number]
            self._owner.on_pool_closed(pool)

    def find(self, name: str) -> PoolExecutor | None:
        return self._by_name.get(name)

    def numbered(self, number: int) -> PoolExecutor | None:
        """By the core's number."""
        return self._by_number.get(number)

    def names(self) -> list[str]:
        return sorted(self._by_name)

    def apply(self, event: Event) -> None:
        """Tell every pool."""
        for pool in self:
            pool.apply(event)

    def tick(self, now: int) -> None:
        if self._leaving_at is not None and now >= self._leaving_at:
            self._look_at_leaving(now)
        for pool in self:
            if pool.deadline is not None and now >= pool.deadline:
                pool.tick(now)
        self._close_buried(now)

    def next_deadline(self) -> int | None:
        times = [self._leaving_at, *(pool.deadline for pool in self._by_number.values())]
        return min((at for at in times if at is not None), default=None)

    @property
    def is_buried(self) -> bool:
        return not self._by_worker

    def set_spawner(self, link: Link | None) -> None:
        self._spawner = link
        for pool in self:
            pool.set_spawner(link)

    def on_spawner_message(self, message: Message) -> None:
        pool = self._by_worker.get(message.numbers[0]) if message.numbers else None
        if pool is None:
            message.close_descriptors()  # about a worker that is known no more
        else:
            pool.on_spawner_message(message)

    def on_core_event(self, name: str, worker: int, value: int) -> None:
        table, key = (self._by_number, value) if name == "demand" else (self._by_worker, worker)
        pool = table.get(key)
        if pool is not None:
            pool.on_core_event(name, worker, value)

    # What the executors ask of their host.

    def log(self, level: int, text: str) -> None:
        self._owner.log(level, text)

    def report(self, event: int, text: str, pool: str, worker: int, pid: int) -> None:
        row = EVENTS[event]
        self._journal.add(row.level, event, row.name, text, pool=pool, worker=worker, pid=pid)

    def watch(self, link: Link, on_readable: Callable[[], None]) -> None:
        self._owner.watch(link, on_readable)

    def unwatch(self, link: Link) -> None:
        self._owner.unwatch(link)

    def own(self, worker: int, executor: PoolExecutor) -> None:
        self._by_worker[worker] = executor

    def disown(self, worker: int) -> None:
        self._by_worker.pop(worker, None)

    def on_serving(self, executor: PoolExecutor) -> None:
        self._owner.on_pool_serving(executor)

    def on_reloaded(self, executor: PoolExecutor, outcome: int) -> None:
        self._owner.on_pool_reloaded(executor, outcome)

    def on_give_up(self, executor: PoolExecutor, text: str) -> None:
        self._owner.on_pool_give_up(executor, text)

    def on_stopped(self, executor: PoolExecutor) -> None:
        self._owner.on_pool_stopped(executor)
