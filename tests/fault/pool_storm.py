"""Everybody who wants something of a core at once: clients, workers, managers, and a second thread
that asks for figures. Numbers of operations are bounded; what is left in the end must be nothing.
"""

import contextlib
import gc
import os
import random
import select
import socket
import sys
import threading
from collections.abc import Callable

from hostile_channel import SKIPPED, record, response
from one_core import GONE, PATIENCE, House, Worker, pool_settings

KINDS = ("post", "get", "get", "content", "chunks", "pipeline", "probe", "long", "leaves", "resets")
FIELDS = ((b"Cache-Control", b"public, max-age=1"), (b"Cache-Groups", b'"all"'))
HOSTS = ("a.test", "b.test", "x.b.test", "nobody.test", "[::1]:80", "")
STATUS = {-1, 0, 200, 400, 502, 503}
CONTENT_MOST = 20_000  # smaller than a ring
POOLS_MOST = 12
WORKERS_MOST = 4
LISTENERS_MOST = 5


class Life(threading.Thread):
    """A worker that answers, until it is told to go or its core does not want it any more."""

    def __init__(self, worker: Worker, seed: int) -> None:
        super().__init__(daemon=True)
        self.worker = worker
        self.chooses = random.Random(seed)
        self.ends = threading.Event()
        self.start()

    def run(self) -> None:
        raw = self.worker.raw
        while not self.ends.is_set():
            raw.take(5)
            held, raw.held = raw.held, []
            self.chooses.shuffle(held)
            for request in held:
                if self.chooses.random() < 0.02:
                    raw.held.append(request)  # later
                    continue
                raw.start(request)
                if raw.is_revoked(request):
                    raw.answer(request, record(SKIPPED, request.place, request.dispatch))
                else:
                    self.answer(request)

    def answer(self, request) -> None:
        content = (request.target.encode() * self.chooses.choice((0, 1, 40)))[:CONTENT_MOST]
        fields = FIELDS if self.chooses.random() < 0.6 else ()
        answer = response(
            request.place,
            request.dispatch,
            fields=fields,
            content=content,
            content_length=len(content),
        )
        while not self.worker.raw.has_room(request.dispatch & 0xFF, len(answer)):
            if self.ends.wait(0.001):
                return
        self.worker.raw.answer(request, answer)


class Asker(threading.Thread):
    """A client: so many requests of all kinds, each on whatever listener there is."""

    def __init__(self, storm: "Storm", seed: int, count: int) -> None:
        super().__init__(daemon=True)
        self.storm = storm
        self.chooses = random.Random(seed)
        self.count = count
        self.seen: dict[int, int] = {}
        self.problem = ""
        self.asked = ""
        self.socket: socket.socket | None = None
        self.rest = b""
        self.start()

    def run(self) -> None:
        try:
            for _ in range(self.count):
                with contextlib.suppress(ConnectionError):
                    self.ask(self.chooses.choice(KINDS))
                    continue
                self.leave()
        except Exception as error:
            self.problem = f"{error!r} {self.asked} {self.storm.seen()}"
        self.leave()

    def leave(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def connect(self) -> socket.socket:
        self.leave()
        ports = list(self.storm.ports.values())
        self.rest = b""
        self.socket = socket.create_connection(("127.0.0.1", self.chooses.choice(ports)), PATIENCE)
        return self.socket

    def head(self, method: str, target: str, *lines: str) -> bytes:
        host = self.chooses.choice(HOSTS)
        text = [f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]
        return "\r\n".join(text).encode()

    def ask(self, kind: str) -> None:
        link = self.socket or self.connect()
        prefix = self.chooses.choice(("", "/p1", "/p2", "/p1/deep", "/%2e/p2"))
        target = f"{prefix}/{self.chooses.randrange(6)}"
        self.asked = f"{kind} {target}"
        if kind == "content":
            link.sendall(self.head("POST", target, "Content-Length: 8") + b"half")
            if self.chooses.random() < 0.3:
                self.leave()
                return
            link.sendall(b"half")
        elif kind == "chunks":
            link.sendall(self.head("PUT", target, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
            link.sendall(b"0\r\n\r\n")
        elif kind == "pipeline":
            link.sendall(b"".join(self.head("GET", f"{target}{n}") for n in range(4)))
            for _ in range(4):
                self.read()
            return
        elif kind == "probe":
            link.sendall(self.head("GET", self.chooses.choice(("/health/live", "/health/ready"))))
        elif kind == "long":
            link.sendall(self.head("GET", target + "/x" * self.chooses.randrange(9000)))
        else:
            method = "POST" if kind == "post" else "GET"
            lines = ("Content-Length: 0",) if kind == "post" else ()
            link.sendall(self.head(method, target, *lines))
            if kind == "leaves":
                self.leave()
                return
            if kind == "resets":
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.leave()
                return
        self.read()

    def read(self) -> None:
        if self.socket is None:
            return
        while b"\r\n\r\n" not in self.rest:
            self.more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        status = int(lines[0].split()[1])
        assert status in STATUS, head
        self.seen[status] = self.seen.get(status, 0) + 1
        fields = dict(line.lower().split(b": ", 1) for line in lines[1:])
        length = int(fields.get(b"content-length", 0))
        while len(self.rest) < length:
            self.more()
        self.rest = self.rest[length:]
        if fields.get(b"connection") == b"close":
            self.leave()

    def more(self) -> None:
        assert self.socket is not None
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError
        self.rest += data


class Storm:
    """The managers' part, and the whole."""

    def __init__(
        self, house: House, seed: int, operations: int, askers: int, requests: int
    ) -> None:
        self.house = house
        self.core = house.core
        self.chooses = random.Random(seed)
        self.operations = operations
        self.ports: dict[int, int] = {}
        self.pools: dict[int, dict[int, Life]] = {}
        self.closing: set[int] = set()
        self.gone: list[int] = []
        self.routed: set[int] = set()
        self.generation = 1
        self.done: dict[str, int] = {}
        self.watches = True
        self.problem = ""
        for _ in range(2):
            self.listen()
        for _ in range(3):
            self.open()
            self.hire()
        self.route()
        self.askers = [Asker(self, seed * 100 + n, requests) for n in range(askers)]
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()

    # -- the other thread --------------------------------------------------------------------------

    def watch(self) -> None:
        try:
            while self.watches:
                stats = self.core.stats()
                assert stats["queued"] < 1 << 31
                self.core.requests(50)
                self.core.route(0, b"", b"a.test", b"/p1/1")
                self.core.cache_show("http://a.test/p1/1")
                self.core.cache_flush("http://a.test/p1", True)
                self.core.cache_flush_group("http://b.test", "all")
                for pool in list(self.pools):
                    with contextlib.suppress(KeyError):
                        assert self.core.pool_info(pool)["executing"] < 1 << 31
        except Exception as error:
            self.problem = repr(error)

    def seen(self) -> object:
        """For whoever wants to know why somebody waits."""
        return self.core.requests(20), [self.core.pool_info(pool) for pool in list(self.pools)]

    # -- what the managers do ----------------------------------------------------------------------

    def alive(self) -> list[int]:
        return [pool for pool in self.pools if pool not in self.closing]

    def open(self) -> None:
        if len(self.pools) < POOLS_MOST:
            self.pools[self.core.pool_open(self.limits())] = {}

    def limits(self):
        return pool_settings(
            threads=self.chooses.choice((1, 2, 8)),
            queue_length=self.chooses.choice((1, 5, 1000)),
            queue_timeout_ns=self.chooses.choice((50_000_000, 2_000_000_000)),
            refuses_by_reset=self.chooses.random() < 0.2,
            redispatch=self.chooses.choice(("idempotent", "always", "never")),
            is_needed=self.chooses.random() < 0.5,
        )

    def change(self) -> None:
        for pool in self.alive()[:1]:
            self.core.pool_change(pool, self.limits())

    def state(self) -> None:
        pool = self.chooses.choice(self.alive())
        words = ("online", "online", "online", "offline", "disabled", "shutdown")
        self.core.set_pool_state(pool, self.chooses.choice(words))

    def close(self) -> None:
        alive = self.alive()
        if len(alive) > 2:
            pool = self.chooses.choice(alive)
            self.closing.add(pool)
            self.route()
            self.core.set_pool_state(pool, self.chooses.choice(("disabled", "online")))
            for number in self.pools[pool]:
                self.dismiss(number)

    def try_close(self) -> None:
        for pool in list(self.closing):
            with contextlib.suppress(ValueError):
                self.core.pool_close(pool)
                self.closing.remove(pool)
                del self.pools[pool]
                continue
            if not self.pools[pool]:
                self.core.set_pool_state(pool, "disabled")

    def hire(self) -> None:
        pool = self.chooses.choice(self.alive())
        if len(self.pools[pool]) < WORKERS_MOST:
            worker = Worker(self.core, pool, self.chooses.randint(1, self.generation))
            if self.chooses.random() < 0.1:
                self.core.worker_abort(worker.number)
                worker.close()
                return
            self.house.workers[worker.number] = worker
            worker.attach()
            self.core.worker_quota(worker.number, self.chooses.choice((0, 1, 50)))
            if self.chooses.random() < 0.9:
                worker.raw.open()
            self.pools[pool][worker.number] = Life(worker, worker.number)

    def dismiss(self, number: int) -> None:
        worker = self.house.workers[number]
        how = self.chooses.choice(("kill", "drain", "abandon", "all"))
        if how in ("drain", "all"):
            self.core.worker_drain(number)
        if how in ("abandon", "all"):
            self.core.worker_abandon(number)
        if how in ("kill", "all", "drain"):
            worker.kill()

    def fire(self) -> None:
        lives = [number for pool in self.alive() for number in self.pools[pool]]
        if lives:
            self.dismiss(self.chooses.choice(lives))

    def route(self) -> None:
        rows = {}
        self.generation += self.chooses.random() < 0.3
        alive = self.alive()
        for listener in self.ports:
            for host in ("", "+", "a.test", "*.b.test", "[::1]"):
                for prefix in (b"/", b"/p1", b"/p1/deep", b"/p2"):
                    if self.chooses.random() < 0.5:
                        address = self.chooses.choice((b"", b"", b"\x7f\0\0\1"))
                        # The pool of an application changes: who waits for a response of it may be
                        # of another pool than who asks for it.
                        application = self.chooses.randrange(4)
                        generation = self.chooses.choice((0, 1, self.generation))
                        rows[listener, address, host, prefix] = (
                            application,
                            self.chooses.choice(alive),
                            7,
                            generation,
                            self.chooses.random() < 0.95,
                        )
        self.core.set_routes([(*key, *row) for key, row in rows.items()])

    def listen(self) -> None:
        if len(self.ports) < LISTENERS_MOST:
            number, port = self.house.listen()
            self.ports[number] = port

    def unlisten(self) -> None:
        if len(self.ports) > 1:
            number = self.chooses.choice(list(self.ports))
            del self.ports[number]
            self.core.remove_listener(number)

    def demand(self) -> None:
        for pool in self.alive():
            self.core.pool_await_demand(pool, self.chooses.choice((-1, 0, 1_000_000)))

    def peak(self) -> None:
        for pool in self.pools:
            self.core.pool_take_peak(pool)

    # -- events, and the end -----------------------------------------------------------------------

    def on_events(self) -> None:
        for name, number, _ in self.core.take_events():
            self.done[name] = self.done.get(name, 0) + 1
            if name == GONE:
                self.forget(number)
            elif name == "quiet":
                self.house.events.append((name, number, 0))

    def forget(self, number: int) -> None:
        pool = self.core.worker_info(number)["pool"]
        life = self.pools[pool].pop(number)
        life.ends.set()
        life.join(PATIENCE)
        life.worker.kill()
        self.house.forget(life.worker)

    def run(self) -> None:
        often: list[Callable[[], None]] = [self.route] * 6 + [self.hire] * 4
        others = (self.open, self.change, self.state, self.close, self.fire, self.listen)
        often += [*others, self.unlisten, self.demand, self.peak]
        for _ in range(self.operations):
            self.chooses.choice(often)()
            self.on_events()
            self.try_close()
            select.select([self.core.event_fd], [], [], 0.002)
        self.finish()

    def settle(self) -> None:
        """Every pool is served by somebody, or closed to all: nobody waits for ever."""
        for pool in self.pools:
            self.core.set_pool_state(pool, "disabled")

    def finish(self) -> None:
        self.settle()
        for asker in self.askers:
            while asker.is_alive():
                asker.join(0.01)
                self.on_events()
        self.watches = False
        self.watcher.join(PATIENCE)
        assert not self.problem, self.problem
        problems = [asker.problem for asker in self.askers if asker.problem]
        assert not problems, problems
        self.core.begin_shutdown()
        self.core.set_routes([])
        for number in list(self.house.workers):
            self.dismiss(number)
            self.house.workers[number].kill()
        while self.pools:
            self.closing = set(self.pools)
            self.try_close()
            self.on_events()
            select.select([self.core.event_fd], [], [], 0.01)


def main() -> None:
    """argv: loops, cache, seed, scale."""
    loops, cache, seed, scale = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    before = set(os.listdir("/proc/self/fd"))
    with House(loops, cache=cache, health_path="/health") as house:
        house.core.start()
        storm = Storm(house, seed, 300 * scale, askers=10, requests=150 * scale)
        storm.run()
        stats = house.finish()
    seen = {status for asker in storm.askers for status in asker.seen}
    assert {200, 400, 503} <= seen, seen
    assert stats["distrusted"] == 0, stats
    assert storm.done["gone"] > 0, storm.done
    del house, storm
    gc.collect()  # they name one another
    assert set(os.listdir("/proc/self/fd")) == before


if __name__ == "__main__":
    main()
