"""A control server with everything behind it but the server: managers that are made up, on a thread
that stands for the service's main thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import threading
from pathlib import Path
from typing import Any

from kernelq import binding, control_socket
from kernelq.control_commands import cache_commands, journal_commands, manager_commands
from kernelq.control_server import ControlServer
from kernelq.desk import Desk, Pending
from kernelq.managed import manager_table, take_page, unknown_name
from kernelq.pool.journal import Journal
from kernelq.shapes import (
    Application,
    Difference,
    Event,
    Match,
    Names,
    Pool,
    Pools,
    PoolState,
    Processes,
    Queue,
    Reloaded,
    Request,
    Requests,
    Site,
    Sites,
    SiteState,
    Stacks,
    Status,
    Upgraded,
    Worker,
)

PATIENCE = 20
STARTED = "2026-11-22T02:10:11.123Z"


class FakeCache:
    """What the core does for the commands about the cache, without a core."""

    def __init__(self) -> None:
        self.entries = [
            {"key": "https://h/a", "status": 200, "bytes": 512, "age": 3, "lifetime": 60},
            {
                "key": "https://h/b?\x1b[2J",
                "status": 404,
                "bytes": 123456,
                "age": 90,
                "lifetime": 9,
            },
        ]
        self.calls: list[tuple[object, ...]] = []

    def cache_list(self, prefix: str, most: int) -> list[dict[str, Any]]:
        self.calls.append(("list", prefix, most))
        return [entry for entry in self.entries if str(entry["key"]).startswith(prefix)][:most]

    def cache_show(self, url: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["key"] == url]

    def cache_flush(self, prefix: str, recursive: bool) -> int:
        self.calls.append(("flush", prefix, recursive))
        if not prefix.startswith("https://"):
            raise ValueError(f"found {prefix!r}, allowed is an absolute URL")
        return 7

    def stats(self) -> dict[str, int]:
        return {"cache_hits": 3, "requests": 5}

    def cache_flush_group(self, origin: str, name: str) -> None:
        self.calls.append(("group", origin, name))
        if name == "broken":
            raise OSError("something else")


def make_worker(number: int = 3, **other: Any) -> Worker:
    worker = Worker(
        number=number,
        pid=4000 + number,
        state="READY",
        generation=1,
        served=1200,
        executing=1,
        rss_kib=51200,
        private_kib=20480,
        cpu_s=12.5,
        started=STARTED,
        age_s=3700.0,
        unhealthy=False,
        latency_us=250,
        suspended=False,
    )
    worker.update(other)  # type: ignore[typeddict-item]
    return worker


def make_pool(name: str = "shop", **other: Any) -> Pool:
    pool = Pool(
        name=name,
        state="RUNNING",
        start_mode="on_demand",
        queue=Queue(length=2, limit=1000, oldest_ms=1500, rejected=4, arrived=12345),
        processes=Processes(now=1, min=0, max=4),
        executing=1,
        workers=[make_worker()],
        recycles=2,
        failures=1,
        last_event=None,
    )
    pool.update(other)  # type: ignore[typeddict-item]
    return pool


def make_site(name: str = "shop", **other: Any) -> Site:
    site = Site(
        name=name,
        state="started",
        bindings=["127.0.0.1:8000:shop.example"],
        applications=[
            Application(
                path="/",
                app="shop.wsgi:application",
                pool="shop",
                number=1,
                url="http://shop.example:8000/",
            )
        ],
    )
    site.update(other)  # type: ignore[typeddict-item]
    return site


def make_request(**other: Any) -> Request:
    request = Request(
        pool="shop",
        site="shop",
        application="/",
        worker=3,
        pid=4003,
        state="executing",
        client="192.0.2.7:51000",
        method="GET",
        host="shop.example",
        target="/cart?item=7",
        elapsed_ms=1234,
    )
    request.update(other)  # type: ignore[typeddict-item]
    return request


def make_event(serial: int = 1, **other: Any) -> Event:
    event = Event(
        serial=serial,
        time=STARTED,
        level="info",
        event=5079,
        name="RECYCLED",
        pool="shop",
        worker=3,
        pid=4003,
        text="a worker is replaced: an administrator asked for it",
    )
    event.update(other)  # type: ignore[typeddict-item]
    return event


class FakeManagers:
    """Managers of pools and sites that are dicts. Pending answers wait in `pendings`."""

    def __init__(self) -> None:
        self.all_pools = {"news": make_pool("news", workers=[], executing=0), "shop": make_pool()}
        self.all_sites = {"shop": make_site(), "www": make_site("www")}
        self.all_requests = [
            make_request(),
            make_request(worker=-1, pid=0, state="queued", target="/\x1b[31m", elapsed_ms=40),
        ]
        self.calls: list[tuple[str, ...]] = []
        self.pendings: list[tuple[str, Pending[Any]]] = []
        self.has_pending = threading.Semaphore(0)
        self.service_pid = 4712

    def status(self) -> Status:
        return Status(
            version="1.2",
            pid=4711,
            service_pid=self.service_pid,
            state="serving",
            started=STARTED,
            uptime_s=11400.5,
            config_file="/etc/kernelq.toml",
            listeners=["http://127.0.0.1:8000"],
            counters={"requests": 12345, "answered": 12000, "refused": 4, "connections_now": 17},
            pools=len(self.all_pools),
            sites=len(self.all_sites),
        )

    def names(self) -> Names:
        return Names(pools=sorted(self.all_pools), sites=sorted(self.all_sites))

    def pools(self, most: int, after: str) -> Pools:
        names, complete = take_page(sorted(self.all_pools), most, after)
        return Pools(pools=[self.all_pools[name] for name in names], complete=complete)

    def sites(self, most: int, after: str) -> Sites:
        names, complete = take_page(sorted(self.all_sites), most, after)
        return Sites(sites=[self.all_sites[name] for name in names], complete=complete)

    def requests(self, pool: str, most: int) -> Requests:
        found = [one for one in self.all_requests if pool in ("", one["pool"])]
        return Requests(requests=found[:most], complete=len(found) <= most)

    def match(self, url: str) -> Match:
        if not url.startswith("http://shop.example"):
            return Match(
                found=False, reason="Hostname", site="", state="", application="", app="", pool=""
            )
        return Match(
            found=True,
            reason="",
            site="shop",
            state="started",
            application="/",
            app="shop.wsgi:application",
            pool="shop",
        )

    def recycle(self, pool: str) -> PoolState:
        return self._on_pool("recycle", pool, "RUNNING")

    def pool_start(self, pool: str) -> PoolState:
        return self._on_pool("pool.start", pool, "RUNNING")

    def pool_stop(self, pool: str) -> PoolState:
        return self._on_pool("pool.stop", pool, "DISABLING")

    def site_start(self, site: str) -> SiteState:
        self.calls.append(("site.start", site))
        return SiteState(site=site, state="started")

    def site_stop(self, site: str) -> SiteState:
        self.calls.append(("site.stop", site))
        return SiteState(site=site, state="stopped")

    def stacks(self, worker: int) -> Pending[Stacks]:
        if worker not in (3, 4003):
            raise ValueError(f"there is no worker {worker}")
        return self._later("stacks")

    def reload(self) -> Pending[Reloaded]:
        return self._later("reload")

    def upgrade(self) -> Pending[Upgraded]:
        return self._later("upgrade")

    def _on_pool(self, what: str, pool: str, state: str) -> PoolState:
        self.calls.append((what, pool))
        if pool == "broken":
            raise RuntimeError("something else")
        if pool not in self.all_pools:
            raise ValueError(unknown_name("pool", pool, sorted(self.all_pools)))
        return PoolState(pool=pool, state=state)

    def _later(self, what: str) -> Pending[Any]:
        pending: Pending[Any] = Pending()
        self.pendings.append((what, pending))
        self.has_pending.release()
        return pending

    def take_pending(self) -> Pending[Any]:
        """The next one that was asked for; waits."""
        assert self.has_pending.acquire(timeout=PATIENCE)
        return self.pendings.pop(0)[1]


STACKS = Stacks(pool="shop", worker=3, pid=4003, text='Thread 1:\n  File "\x1b[2Ja.py"\n')
RELOADED = Reloaded(
    pools=Difference(added=["blog"], changed=["shop"], removed=[], same=1),
    sites=Difference(added=[], changed=[], removed=["old"], same=2),
    notes=[],
)
UPGRADED = Upgraded(
    version="1.3", service_pid=4799, previous_version="1.2", previous_service_pid=4712
)


class Served:
    """A control server on a socket, its managers, and clients."""

    def __init__(
        self,
        path: Path,
        user: int | None = None,
        readers: int | None = None,
        *,
        starts: bool = True,
    ) -> None:
        self.path = str(path)
        self.cache = FakeCache()
        self.managers = FakeManagers()
        self.journal = Journal()
        self.said: list[str] = []
        self.desk = Desk(self.say)
        self.listener = binding.open_unix(self.path, None, control_socket.OWNER_ONLY)
        self.server = ControlServer(
            self.listener.socket,
            {
                **cache_commands(self.cache),
                **journal_commands(self.journal),
                **manager_commands(self.desk),
            },
            self.say,
            user,
            readers,
        )
        self.server.start()
        self._ends, self._end = os.pipe()
        self._main = threading.Thread(target=self._serve)
        if starts:
            self._main.start()

    def say(self, level: int, text: str) -> None:
        del level
        self.said.append(text)

    def wake_managers(self) -> None:
        """Those that were not started at first begin to serve."""
        self._main.start()

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self.desk.fileno(), self._ends], [], [])
            if self._ends in ready:
                return
            self.desk.serve(manager_table(self.managers))

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(self.path)
        return sock

    def ask(self, **request: object) -> dict[str, Any]:
        with self.connect() as sock:
            return exchange(sock, json.dumps(request).encode() + b"\n")

    def close(self) -> None:
        os.close(self._end)
        if self._main.ident is not None:
            self._main.join(PATIENCE)
        self.server.stop(PATIENCE)
        self.desk.close()
        os.close(self._ends)
        self.listener.remove_socket_file()
        assert not self.server._thread.is_alive()


def exchange(sock: socket.socket, data: bytes) -> dict[str, Any]:
    with contextlib.suppress(BrokenPipeError):
        sock.sendall(data)
    return read_answer(sock)


def read_answer(sock: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n"):
        more = sock.recv(1 << 20)
        assert more, "closed without an answer"
        data += more
    answer: dict[str, Any] = json.loads(data)
    return answer
