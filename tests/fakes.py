"""A small, honest stand-in for the core and the worker's channel: real descriptors and processes,
no HTTP.

The channel is one socket pair. The worker's side says "ready" and, when told "answer", "answered";
the core's side says "drain". Deaths are learned from real pidfds, by a thread, as the real core
does it.
"""

import os
import select
import socket
import threading
from collections.abc import Sequence
from typing import Any

CHANNEL_FDS = ("side_socket",)


class _FakeWorker:
    def __init__(self, side: socket.socket) -> None:
        self.side = side
        self.pidfd = -1
        self.state = "starting"


class Core:
    """What kernelq._core.Core promises to the managers, as far as they use it."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.pool_state = "online"
        self.listeners: list[int] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._workers: dict[int, _FakeWorker] = {}
        self._events: list[tuple[str, int, int]] = []
        self._next = 0
        self._is_stopped = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def add_listener(self, fd: int) -> None:
        self.listeners.append(fd)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_stopped = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for fd in (*self.listeners, self.event_fd, self._wake):
            os.close(fd)
        for worker in self._workers.values():
            worker.side.close()
            if worker.pidfd >= 0:
                os.close(worker.pidfd)

    def take_events(self) -> list[tuple[str, int, int]]:
        with self._lock:
            try:
                os.eventfd_read(self.event_fd)
            except BlockingIOError:
                pass
            events, self._events = self._events, []
        return events

    def channel_open(self) -> tuple[int, list[int]]:
        ours, theirs = socket.socketpair()
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._workers[number] = _FakeWorker(ours)
        os.eventfd_write(self._wake, 1)
        return number, [theirs.detach()]

    def worker_attach(self, worker: int, pid: int, pidfd: int) -> None:
        with self._lock:
            self._workers[worker].pidfd = pidfd
        os.eventfd_write(self._wake, 1)

    def worker_drain(self, worker: int) -> None:
        self._workers[worker].state = "draining"
        self.tell(worker, b"drain")

    def worker_abort(self, worker: int) -> None:
        self._forget(worker)

    def worker_forget(self, worker: int) -> None:
        assert self._workers[worker].state == "gone"
        self._forget(worker)

    def worker_info(self, worker: int) -> dict[str, object]:
        return {"state": self._workers[worker].state, "served": 0, "executing": []}

    def set_pool_state(self, state: str) -> None:
        self.pool_state = state

    def begin_drain(self) -> None:
        self.pool_state = "not ready"

    def begin_shutdown(self) -> None:
        self.emit("quiet", -1)

    def reopen_log(self, access_fd: int, error_fd: int) -> None:
        if access_fd >= 0:
            os.write(access_fd, b"opened again\n")
            os.close(access_fd)

    def log(self, level: int, text: str) -> None:
        from kernelq import log

        log.write(level, text)

    def tell(self, worker: int, word: bytes) -> None:
        """Say a word to a worker's stand-in."""
        try:
            self._workers[worker].side.send(word + b"\n", socket.MSG_NOSIGNAL)
        except OSError:
            pass  # it has died; its pidfd says so

    def emit(self, name: str, worker: int) -> None:
        with self._lock:
            self._events.append((name, worker, 0))
            os.eventfd_write(self.event_fd, 1)

    def _forget(self, worker: int) -> None:
        with self._lock:
            found = self._workers.pop(worker)
            found.side.close()
            if found.pidfd >= 0:
                os.close(found.pidfd)
        os.eventfd_write(self._wake, 1)

    def _watch(self) -> None:
        while not self._is_stopped:
            with self._lock:
                watched = {w.pidfd: n for n, w in self._workers.items() if w.state != "gone"}
                sides = {w.side.fileno(): n for n, w in self._workers.items() if w.state != "gone"}
            watched.pop(-1, None)
            poll = select.poll()
            for fd in (self._wake, *watched, *sides):
                poll.register(fd, select.POLLIN)
            for fd, _ in poll.poll():
                self._note(fd, watched, sides)

    def _note(self, fd: int, watched: dict[int, int], sides: dict[int, int]) -> None:
        if fd == self._wake:
            os.eventfd_read(fd)
        elif fd in sides and sides[fd] in self._workers:
            self._read_words(sides[fd])
        elif fd in watched and watched[fd] in self._workers:
            self._read_words(watched[fd])
            self._workers[watched[fd]].state = "gone"
            self.emit("gone", watched[fd])

    def _read_words(self, worker: int) -> None:
        side = self._workers[worker].side
        try:
            data = side.recv(4096, socket.MSG_DONTWAIT)
        except OSError:
            return
        for word in data.decode().split():
            self.emit({"ready": "ready", "answered": "first_answer"}[word], worker)
        if not data and self._workers[worker].pidfd >= 0:
            select.select([self._workers[worker].pidfd], [], [])  # its end is its death


class Channel:
    """What kernelq._worker.Channel promises to the worker's bootstrap."""

    def __init__(self, fds: Sequence[int]) -> None:
        self._side = socket.socket(fileno=fds[0])
        self._finished = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_drained = False

    def fileno(self) -> int:
        return self._finished

    def ready(self) -> None:
        self._side.send(b"ready\n")
        if os.environ.get("KERNELQ_FAKE_ANSWERS") == "1":
            self._side.send(b"answered\n")

    def serve(self, application: Any, threads: int, settings: Any) -> None:
        threading.Thread(target=self._listen, args=(application,), daemon=True).start()

    def drain(self) -> None:
        self._is_drained = True
        os.eventfd_write(self._finished, 1)

    def wait(self, timeout: float) -> bool:
        return self._is_drained

    def _listen(self, application: Any) -> None:
        while data := self._side.recv(4096):
            for word in data.decode().split():
                if word == "drain":
                    self.drain()
                elif word == "call":
                    application({}, None)
