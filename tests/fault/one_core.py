"""A Core in the test's own process, and workers of it that the test plays by hand.

A worker's process only waits for its end; what a worker would read and write is read and written by
the test (hostile_channel.RawChannel).
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from types import TracebackType
from typing import Self

from hostile_channel import HEAD, RawChannel, Request, response

from kernelq import _core
from kernelq.config import CorePoolSettings, CoreSettings

PATIENCE = 60.0
PATIENCE_MS = 60_000
LOG_LEVEL = 50
READY, GONE, DEMAND, QUOTA, QUIET = "ready", "gone", "demand", "quota", "quiet"


def pool_settings(**changes: object) -> CorePoolSettings:
    return CorePoolSettings(**{"name": "shop", "threads": 2, **changes})


class Worker:
    """One worker; its number, its channel, and a process that can be killed."""

    def __init__(self, core: _core.Core, pool: int, generation: int = 0) -> None:
        self.core = core
        self.number, fds = core.channel_open(pool, generation)
        self.raw = RawChannel([os.dup(fd) for fd in fds])
        for fd in fds:
            os.close(fd)
        self.process: subprocess.Popen | None = None

    def attach(self) -> None:
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        self.core.worker_attach(self.number, self.process.pid, os.pidfd_open(self.process.pid))

    def take(self, count: int = 1) -> list[Request]:
        """So many requests in hand, the oldest first."""
        end = time.monotonic() + PATIENCE
        while len(self.raw.held) < count:
            assert time.monotonic() < end, f"only {len(self.raw.held)} of {count} requests came"
            self.raw.take(50)
        taken, self.raw.held = self.raw.held[:count], self.raw.held[count:]
        return taken

    def answer(self, request: Request, content: bytes = b"", **more: object) -> None:
        self.raw.start(request)
        length = len(content)
        self.raw.answer(
            request,
            response(
                request.place,
                request.dispatch,
                content=content,
                content_length=length,
                **more,
            ),
        )

    def serve(self, count: int = 1) -> list[str]:
        """Answer so many requests with their own targets."""
        taken = self.take(count)
        for request in taken:
            self.answer(request, request.target.encode())
        return [request.target for request in taken]

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def close(self) -> None:
        self.raw.close()
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()


class Client:
    """One connection; requests by hand, responses read whole."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.file = self.socket.makefile("rb")

    def send(self, target: str, *lines: str, method: str = "POST", host: str = "a.test") -> None:
        fields = [f"Host: {host}"] if host else []
        if method == "POST" and not any(line.startswith("Content-Length") for line in lines):
            fields.append("Content-Length: 0")
        head = [f"{method} {target} HTTP/1.1", *fields, *lines]
        self.socket.sendall("\r\n".join(head).encode("latin-1") + b"\r\n\r\n")

    def read(self) -> tuple[int, bytes]:
        """Status and content; (0, b""): the connection has ended."""
        try:
            line = self.file.readline()
        except ConnectionResetError:
            return -1, b""
        if not line:
            return 0, b""
        status = int(line.split()[1])
        length = 0
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if status == 100:
            return self.read()
        return status, self.file.read(length)

    def ask(self, target: str, *lines: str, **how: str) -> tuple[int, bytes]:
        self.send(target, *lines, **how)
        return self.read()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class House:
    """The core, its listeners, its workers, its clients."""

    def __init__(self, loops: int = 1, **settings: object) -> None:
        self.core = _core.Core(CoreSettings(loops=loops, log_level=LOG_LEVEL, **settings))
        self.events: list[tuple[str, int, int]] = []
        self.workers: dict[int, Worker] = {}
        self.clients: list[Client] = []
        self.is_stopped = False
        self.poll = select.poll()
        self.poll.register(self.core.event_fd, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        for client in self.clients:
            client.close()
        for worker in self.workers.values():
            worker.kill()
        if kind is None and not self.is_stopped:
            self.finish()
        for worker in self.workers.values():
            worker.close()
        self.core.stop()

    def listen(self, host: str = "127.0.0.1") -> tuple[int, int]:
        """A new listener: its number and its port."""
        with socket.create_server((host, 0), backlog=1024) as listener:
            listener.setblocking(False)
            return self.core.add_listener(os.dup(listener.fileno())), listener.getsockname()[1]

    def worker(self, pool: int, generation: int = 0) -> Worker:
        """One that is ready."""
        worker = Worker(self.core, pool, generation)
        self.workers[worker.number] = worker
        worker.attach()
        worker.raw.open()
        self.wait(READY, worker.number)
        return worker

    def client(self, port: int) -> Client:
        self.clients.append(Client(port))
        return self.clients[-1]

    def look(self) -> None:
        self.events += self.core.take_events()

    def wait(self, name: str, number: int | None = None) -> tuple[str, int, int]:
        """The next event of this name (and worker), which is taken out of those that were seen."""
        while True:
            for event in self.events:
                if event[0] == name and number in (None, event[1]):
                    self.events.remove(event)
                    return event
            assert self.poll.poll(PATIENCE_MS), f"no event {name!r}, only {self.events}"
            self.look()

    def has_seen(self, name: str) -> bool:
        self.look()
        return any(event[0] == name for event in self.events)

    def until(self, pool: int, **figures: int) -> dict:
        """pool_info() once these figures are there."""
        end = time.monotonic() + PATIENCE
        while True:
            info = self.core.pool_info(pool)
            if all(info[name] == value for name, value in figures.items()):
                return info
            assert time.monotonic() < end, (figures, info)
            select.select([], [], [], 0.001)

    def bury(self, worker: Worker) -> None:
        """Its process ends, and the core forgets it."""
        worker.kill()
        self.wait(GONE, worker.number)
        self.forget(worker)

    def forget(self, worker: Worker) -> None:
        self.core.worker_forget(worker.number)
        del self.workers[worker.number]
        worker.close()

    def finish(self) -> dict[str, int]:
        """Clients have gone: let go of everything; what is left must be nothing."""
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.close()
        self.core.begin_shutdown()
        self.wait(QUIET)
        for worker in list(self.workers.values()):
            self.bury(worker)
        stats = self.core.stats()
        self.core.stop()
        self.is_stopped = True
        for gauge in ("exchanges_now", "chunks_now", "connections_now", "queued"):
            assert stats[gauge] == 0, (gauge, stats)
        done = stats["answered"] + stats["refused"] + stats["client_gone"]
        assert stats["requests"] == done, stats
        return stats


__all__ = ["DEMAND", "GONE", "HEAD", "QUIET", "QUOTA", "READY", "House", "Worker", "pool_settings"]
