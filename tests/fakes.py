"""A core and a host for the pool's executor that write down what they are asked."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kernelq.config import CorePoolSettings
from kernelq.link import Link

if TYPE_CHECKING:
    from kernelq.pool.executor import PoolExecutor


class FakeCore:
    """What kernelq._core.Core promises to a pool, with real descriptors."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.pool_states: dict[int, str] = {}
        self.demands: list[tuple[int, int]] = []  # pool, wait_ns
        self.quotas: dict[int, int] = {}
        self.info = dict.fromkeys(
            ("queued", "executing", "unstarted", "last_activity_ns", "rejected"), 0
        )
        self.peak = 0
        self.is_full = False
        self.known: set[int] = set()
        self.pool_of: dict[int, int] = {}  # by worker
        self._next = 1

    def pool_open(self, settings: CorePoolSettings) -> int:
        number = len(self.pool_states)
        self.pool_states[number] = "online"
        return number

    def pool_change(self, pool: int, settings: CorePoolSettings) -> None:
        assert pool in self.pool_states
        self.calls.append(("change", pool))

    def pool_close(self, pool: int) -> None:
        if any(self.pool_of[worker] == pool for worker in self.known):
            raise ValueError(f"pool {pool} has workers")
        del self.pool_states[pool]

    def pool_info(self, pool: int) -> dict[str, Any]:
        assert pool in self.pool_states
        return self.info

    def pool_take_peak(self, pool: int) -> int:
        return self.peak

    def pool_await_demand(self, pool: int, wait_ns: int) -> None:
        self.demands.append((pool, wait_ns))

    def set_pool_state(self, pool: int, state: str) -> None:
        self.pool_states[pool] = state

    def channel_open(self, pool: int, generation: int) -> tuple[int, list[int]]:
        assert pool in self.pool_states
        if self.is_full:
            raise OSError(24, "Too many open files")
        number, self._next = self._next, self._next + 1
        self.known.add(number)
        self.pool_of[number] = pool
        return number, [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(3)]

    def worker_attach(self, worker: int, pid: int, pidfd: int) -> None:
        assert worker in self.known
        os.close(pidfd)
        self.calls.append(("attach", worker))

    def worker_quota(self, worker: int, requests: int) -> None:
        self.quotas[worker] = requests

    def worker_abandon(self, worker: int) -> None:
        assert ("attach", worker) in self.calls
        assert worker in self.known
        self.calls.append(("abandon", worker))

    def worker_drain(self, worker: int) -> None:
        assert worker in self.known
        self.calls.append(("drain", worker))

    def worker_abort(self, worker: int) -> None:
        self.known.remove(worker)
        self.calls.append(("abort", worker))

    def worker_forget(self, worker: int) -> None:
        self.known.remove(worker)
        self.calls.append(("forget", worker))

    def worker_info(self, worker: int) -> dict[str, Any]:
        assert worker in self.known
        request = {"method": "GET", "target": "/x", "client": "192.0.2.1", "handed_ns": 0}
        return {"served": 7, "executing": [request]}


class FakeHost:
    """Whom an executor reports to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.watched: dict[int, Callable[[], None]] = {}
        self.told: list[str] = []
        self.events: list[int] = []
        self.owned: set[int] = set()

    def log(self, level: int, text: str) -> None:
        self.lines.append(text)

    def watch(self, link: Link, on_readable: Callable[[], None]) -> None:
        self.watched[link.fileno()] = on_readable

    def unwatch(self, link: Link) -> None:
        del self.watched[link.fileno()]

    def report(self, event: int, text: str, pool: str, worker: int, pid: int) -> None:
        assert text
        self.events.append(event)

    def own(self, worker: int, executor: "PoolExecutor") -> None:
        self.owned.add(worker)

    def disown(self, worker: int) -> None:
        self.owned.remove(worker)

    def on_serving(self, executor: "PoolExecutor") -> None:
        self.told.append("serving")

    def on_reloaded(self, executor: "PoolExecutor", outcome: int) -> None:
        self.told.append(("reload failed", "reloaded", "reload waits")[outcome])

    def on_give_up(self, executor: "PoolExecutor", text: str) -> None:
        self.told.append(f"given up: {text}")

    def on_stopped(self, executor: "PoolExecutor") -> None:
        self.told.append("stopped")
