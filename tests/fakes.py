"""A core and a host for the pool's executor that write down what they are asked."""

import os
from collections.abc import Callable

from kernelq.link import Link


class FakeCore:
    """What kernelq._core.Core promises to a pool, with real descriptors."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.pool_state = "online"
        self.is_full = False
        self.known: set[int] = set()
        self._next = 1

    def channel_open(self) -> tuple[int, list[int]]:
        if self.is_full:
            raise OSError(24, "Too many open files")
        number, self._next = self._next, self._next + 1
        self.known.add(number)
        return number, [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(3)]

    def worker_attach(self, worker: int, pid: int, pidfd: int) -> None:
        assert worker in self.known
        os.close(pidfd)
        self.calls.append(("attach", worker))

    def worker_drain(self, worker: int) -> None:
        assert worker in self.known
        self.calls.append(("drain", worker))

    def worker_abort(self, worker: int) -> None:
        self.known.remove(worker)
        self.calls.append(("abort", worker))

    def worker_forget(self, worker: int) -> None:
        self.known.remove(worker)
        self.calls.append(("forget", worker))

    def worker_info(self, worker: int) -> dict[str, object]:
        assert worker in self.known
        request = {"method": "GET", "target": "/x", "client": "192.0.2.1", "handed_ns": 0}
        return {"served": 7, "executing": [request]}

    def set_pool_state(self, state: str) -> None:
        self.pool_state = state


class FakeHost:
    """Whom an executor reports to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.watched: dict[int, Callable[[], None]] = {}
        self.told: list[str] = []

    def log(self, level: int, text: str) -> None:
        self.lines.append(text)

    def watch(self, link: Link, on_readable: Callable[[], None]) -> None:
        self.watched[link.fileno()] = on_readable

    def unwatch(self, link: Link) -> None:
        del self.watched[link.fileno()]

    def on_serving(self) -> None:
        self.told.append("serving")

    def on_reloaded(self, is_new: bool) -> None:
        self.told.append("reloaded" if is_new else "reload failed")

    def on_give_up(self, text: str) -> None:
        self.told.append(f"given up: {text}")

    def on_stopped(self) -> None:
        self.told.append("stopped")
