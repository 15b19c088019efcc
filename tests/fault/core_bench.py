"""A core in the test's own process, with as many pools, listeners and workers as a test wants.

The test itself plays the workers: it reads and writes their channels by hand (hostile_channel.py);
the process that the core takes for a worker only waits for its end.
"""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence

from hostile_channel import RawChannel, Request, response

from kernelq import _core
from kernelq.config import CorePoolSettings, CoreSettings

PATIENCE_MS = 30_000
SILENT = 50


class Hand:
    """A worker, played by the test."""

    def __init__(self, bench: "CoreBench", pool: int, generation: int) -> None:
        self.bench = bench
        self.number, fds = bench.core.channel_open(pool, generation)
        command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.raw = RawChannel([os.dup(fd) for fd in fds])
        for fd in fds:
            os.close(fd)
        bench.core.worker_attach(self.number, self.process.pid, os.pidfd_open(self.process.pid))
        self.is_forgotten = False

    def ready(self) -> None:
        self.raw.open()
        self.bench.wait("ready", self.number)

    def take(self, count: int = 1) -> list[Request]:
        """The next requests, once so many have come."""
        while len(self.raw.held) < count:
            self.raw.take(10)
        taken, self.raw.held = self.raw.held[:count], self.raw.held[count:]
        return taken

    def start(self, request: Request) -> None:
        self.raw.start(request)

    def answer(self, request: Request, content: bytes = b"ok", **fields: str) -> None:
        pairs = [(name.replace("_", "-").encode(), text.encode()) for name, text in fields.items()]
        self.raw.start(request)
        self.raw.answer(request, response(request.place, request.dispatch, 200, pairs, content))

    def serve(self, content: bytes = b"ok") -> Request:
        """Answer the next request, whichever it is."""
        (request,) = self.take()
        self.answer(request, content)
        return request

    def kill(self) -> None:
        self.process.kill()
        self.forget()

    def forget(self) -> None:
        self.process.wait()
        self.bench.wait("gone", self.number)
        self.raw.close()
        self.process.stdin.close()
        self.bench.core.worker_forget(self.number)
        self.is_forgotten = True


class Asked:
    """A client's connection, and what comes back on it."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.settimeout(30)
        self.rest = b""

    def send(self, target: str = "/", host: str = "h", more: str = "", method: str = "GET") -> None:
        self.sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())

    def read(self) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and content of the next response."""
        while b"\r\n\r\n" not in self.rest:
            self._receive()
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        line, *lines = head.decode().split("\r\n")
        fields = {name.lower(): text for name, text in (line.split(": ", 1) for line in lines)}
        length = int(fields.get("content-length", "0"))
        while len(self.rest) < length:
            self._receive()
        content, self.rest = self.rest[:length], self.rest[length:]
        return int(line.split()[1]), fields, content

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        assert data, "the server has closed the connection"
        self.rest += data

    def is_ended(self) -> bool:
        """The server's FIN has come, and nothing before it."""
        return self.sock.recv(1) == b""

    def close(self) -> None:
        self.sock.close()


class CoreBench:
    def __init__(self, **settings: object) -> None:
        settings = {"log_level": SILENT, "cache": "off", **settings}
        self.core = _core.Core(CoreSettings(**settings))
        self.events: list[tuple[str, int, int]] = []
        self.hands: list[Hand] = []
        self.clients: list[Asked] = []
        self.ports: dict[int, int] = {}
        self.listener = self.listen()
        self.core.start()

    def listen(self) -> int:
        """The number of a new listener; ports[number] is where it listens."""
        with socket.create_server(("127.0.0.1", 0), backlog=256) as sock:
            sock.setblocking(False)
            number = self.core.add_listener(os.dup(sock.fileno()))
            self.ports[number] = sock.getsockname()[1]
        return number

    def pool(self, name: str = "p", **settings: object) -> int:
        settings = {"threads": 2, **settings}
        return self.core.pool_open(CorePoolSettings(name=name, **settings))

    def route(self, *rows: Sequence[object]) -> None:
        """Rows of (host, prefix, application, pool, generation, is_enabled), the last two of which
        may be left out, for every listener."""
        entries = []
        for host, prefix, application, pool, *rest in rows:
            generation, is_enabled = (*rest, *(0, True)[len(rest) :])
            entries += [
                (listener, b"", host, prefix, application, pool, 7, generation, is_enabled)
                for listener in self.ports
            ]
        self.core.set_routes(entries)

    def one_pool(self, **settings: object) -> int:
        """A pool that answers everything."""
        pool = self.pool(**settings)
        self.route(("", b"/", 1, pool))
        return pool

    def worker(self, pool: int, generation: int = 0) -> Hand:
        """A worker that is ready."""
        hand = Hand(self, pool, generation)
        self.hands.append(hand)
        hand.ready()
        return hand

    def client(self, listener: int | None = None) -> Asked:
        self.clients.append(Asked(self.ports[self.listener if listener is None else listener]))
        return self.clients[-1]

    def send(self, target: str = "/", host: str = "h", **more: str) -> Asked:
        """A client that has asked."""
        client = self.client()
        client.send(target, host, **more)
        return client

    def wait(self, name: str, worker: int = -1) -> int:
        """The value of the next event of that name and worker."""
        poll = select.poll()
        poll.register(self.core.event_fd, select.POLLIN)
        while True:
            for event in self.events:
                if event[:2] == (name, worker):
                    self.events.remove(event)
                    return event[2]
            assert poll.poll(PATIENCE_MS), f"no event {name!r} of {worker}, only {self.events}"
            self.events += self.core.take_events()

    def has(self, name: str) -> bool:
        self.events += self.core.take_events()
        return any(event[0] == name for event in self.events)

    def wait_until(self, pool: int, **figures: int) -> dict[str, object]:
        """Until pool_info() says so."""
        while True:
            info = self.core.pool_info(pool)
            if all(info[name] == value for name, value in figures.items()):
                return info

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for hand in self.hands:
            if not hand.is_forgotten:
                hand.kill()
        self.core.begin_shutdown()
        self.wait("quiet")
        stats = self.core.stats()
        assert (stats["exchanges_now"], stats["connections_now"], stats["queued"]) == (0, 0, 0)
        self.core.stop()
