"""What do clients see when a worker dies under load, or when the workers are replaced?

    python -m bench.macro.crash [--peers A,B] [--modes kill,reload] [--seconds N]

Sixteen clients keep one connection each and send the next request when the last is answered; each
request carries a number that its answer must repeat. Every half second SIGKILL ends the worker
that gave the latest answer (kill), or SIGHUP asks the server for new workers each second (reload).
The application writes each execution into a ledger: so the table also says which failed requests
had never been started, and which were executed twice.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Self

from bench.macro import proc
from bench.macro.client import Connection, Malformed, Response, request
from bench.macro.peers import PEERS, TOOLS, Peer
from bench.macro.report import chosen, opening, options_of, save, show_table
from bench.macro.server import Failed, Server, prepare

if TYPE_CHECKING:
    import argparse

CLIENTS = 16
WORKERS = 2
THREADS = 8
SUBJECTS = ("kernelq", "kernelq-preload", "gunicorn-sync", "gunicorn", "granian", "uwsgi")
METHODS = ("GET", "POST")
INTERVAL_SECONDS = {"kill": 0.5, "reload": 1.0}
PAUSE_SECONDS = 0.01  # before a client connects again: a refused one must not spin
LOST = ("closed 5xx", "reset", "timeout", "wrong")
OUTCOMES = ("ok", "kept 5xx", *LOST)


class Swarm:
    """The clients, what they saw, and the worker that answered last."""

    def __init__(self, port: int, method: str) -> None:
        self.port = port
        self.method = method
        self.numbers = itertools.count(1)
        self.counts: Counter[str] = Counter()
        self.failed: list[int] = []
        self.longest = 0.0
        self.latest_worker = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _client(self) -> None:
        connection: Connection | None = None
        while not self.over.is_set():
            number = next(self.numbers)
            began = time.monotonic()
            outcome, connection = self._ask(number, connection)
            with self.lock:
                self.longest = max(self.longest, time.monotonic() - began)
                self.counts[outcome] += 1
                if outcome != "ok":
                    self.failed.append(number)
        if connection:
            connection.close()

    def _ask(self, number: int, connection: Connection | None) -> tuple[str, Connection | None]:
        try:
            if connection is None:
                connection = Connection(self.port)
            response = connection.exchange(self._message(number))[0]
            outcome = self._judge(number, response)
            if not response.closes:
                return outcome, connection
        except TimeoutError:
            outcome = "timeout"
        except Malformed:
            outcome = "wrong"
        except OSError:
            outcome = "reset"
        if connection:
            connection.close()
        if outcome != "ok":
            time.sleep(PAUSE_SECONDS)
        return outcome, None

    def _message(self, number: int) -> bytes:
        if self.method == "POST":
            return request("/echo", b"%d" % number)
        return request(f"/echo?{number}")

    def _judge(self, number: int, response: Response) -> str:
        if response.status >= 500:
            return "closed 5xx" if response.closes else "kept 5xx"
        echoed, _, worker = response.content.partition(b" ")
        if response.status != 200 or echoed != b"%d" % number or not worker.isdigit():
            return "wrong"
        self.latest_worker = int(worker)
        return "ok"


@dataclass(frozen=True)
class Event:
    when: int  # monotonic nanoseconds
    existing: frozenset[int]  # the server's processes then


class Ledger:
    """Every execution that the application began: number, worker, time."""

    def __init__(self, text: str) -> None:
        entries = [tuple(map(int, line.split())) for line in text.splitlines()]
        self.executions = Counter(number for number, _, _ in entries)
        self.first_seen: dict[int, int] = {}
        for _, worker, when in entries:
            self.first_seen.setdefault(worker, when)

    def renewals(self, events: list[Event]) -> list[float]:
        """Seconds from each event to the first request in a worker that did not exist then."""
        found = []
        for event, later in itertools.pairwise([*events, Event(sys.maxsize, frozenset())]):
            born = [
                seen
                for worker, seen in self.first_seen.items()
                if worker not in event.existing and event.when < seen < later.when
            ]
            if born:
                found.append((min(born) - event.when) / 1e9)
        return found


@dataclass(frozen=True)
class Row:
    peer: str
    mode: str
    method: str
    counts: dict[str, int]
    events: int  # kills or reloads
    unstarted: int  # failed, yet never begun by any worker
    twice: int  # numbers executed more than once
    longest: float  # seconds
    renewal: float  # seconds, median: a worker's end to its successor's first request
    renewal_max: float
    alive: bool  # whether the server still answers in the end

    def broken(self) -> list[str]:
        """Which of kernelq's promises this row breaks: only a POST that was started may fail, and
        only when its worker died, with an answer on the kept connection."""
        kept = self.counts.get("kept 5xx", 0)
        allowed = self.method == "POST" and self.mode == "kill"
        breaches = {
            "connections lost or answers wrong": sum(self.counts.get(name, 0) for name in LOST),
            "answered 5xx": 0 if allowed else kept,
            "failed without having been started": self.unstarted,
            "executed twice": self.twice if self.method == "POST" else 0,
            "servers gone": not self.alive,
        }
        return [f"{count:d} {what}" for what, count in breaches.items() if count]


def kill(server: Server, worker: int) -> bool:
    """SIGKILL to a worker of this server that lives, and to nothing else."""
    if worker == server.pid or worker not in server.pids() or proc.stat(worker)[:1] == ["Z"]:
        return False
    with suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    return True


def reload(server: Server) -> bool:
    with suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGHUP)
    return True


def is_up(server: Server) -> bool:
    try:
        with Connection(server.port) as connection:
            return connection.exchange(request())[0].status == 200
    except (OSError, Malformed):
        return False


def disturb(server: Server, swarm: Swarm, mode: str, seconds: float) -> list[Event]:
    """Kills or reloads at its interval until the time is over; returns what it has done."""
    events = []
    interval = INTERVAL_SECONDS[mode]
    deadline = time.monotonic() + seconds
    while time.monotonic() + interval < deadline:
        time.sleep(interval)
        event = Event(time.monotonic_ns(), frozenset(server.pids()))
        if kill(server, swarm.latest_worker) if mode == "kill" else reload(server):
            events.append(event)
    time.sleep(interval)
    return events


def measure(peer: Peer, mode: str, method: str, options: argparse.Namespace) -> Row:
    with tempfile.TemporaryDirectory(dir=TOOLS, prefix="ledger-") as directory:
        path = Path(directory, "ledger")
        path.touch()
        with Server(peer, options.python, environment={"BENCH_LEDGER": str(path)}) as server:
            with Swarm(server.port, method) as swarm:
                events = disturb(server, swarm, mode, options.seconds)
            alive = is_up(server)
        ledger = Ledger(path.read_text())
    renewals = ledger.renewals(events)
    return Row(
        peer=peer.name,
        mode=mode,
        method=method,
        counts=dict(swarm.counts),
        events=len(events),
        unstarted=sum(not ledger.executions[number] for number in swarm.failed),
        twice=sum(count > 1 for count in ledger.executions.values()),
        longest=swarm.longest,
        renewal=median(renewals) if renewals else 0.0,
        renewal_max=max(renewals, default=0.0),
        alive=alive,
    )


def show(rows: list[Row]) -> None:
    head = ["", "", "", *OUTCOMES, "events", "unstarted", "twice", "longest", "renewal", "max", ""]
    table = [head]
    for row in rows:
        counts = [row.counts.get(outcome, 0) for outcome in OUTCOMES]
        counts += [row.events, row.unstarted, row.twice]
        times = (row.longest, row.renewal, row.renewal_max)
        table.append(
            [
                row.peer,
                row.mode,
                row.method,
                *map(str, counts),
                *(f"{1000 * seconds:,.0f} ms" if seconds else "-" for seconds in times),
                "" if row.alive else "DEAD",
            ]
        )
    show_table(table, left=3)


def parse_options() -> argparse.Namespace:
    parser = options_of("crash", "Counts what clients see while workers die.", SUBJECTS)
    parser.add_argument("--modes", default=",".join(INTERVAL_SECONDS))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--quick", action="store_true", help="two seconds each")
    options = parser.parse_args()
    if options.quick:
        options.seconds = 2.0
    return options


def run(options: argparse.Namespace, names: list[str], rows: list[Row]) -> None:
    modes = chosen(options.modes, INTERVAL_SECONDS, "mode")
    for mode, method, name in itertools.product(modes, METHODS, names):
        try:
            peer = replace(PEERS[name], workers=WORKERS, threads=THREADS)
            rows.append(measure(peer, mode, method, options))
            print(f"{name} {mode} {method}: {rows[-1].counts}", file=sys.stderr)
        except (Failed, OSError) as error:
            print(f"{name} {mode} {method}: {error}", file=sys.stderr)


def main() -> int:
    options = parse_options()
    prepare(descriptors=1000)
    names, record = opening(options)
    print(f"{CLIENTS} clients, {WORKERS} workers of {THREADS} threads, {options.seconds:g} s\n")
    rows: list[Row] = []
    interrupted = False
    try:
        run(options, names, rows)
    except KeyboardInterrupt:
        interrupted = True
    show(rows)
    broken = ["interrupted"] * interrupted + [
        f"{row.peer} {row.mode} {row.method}: {breach}"
        for row in rows
        if row.peer.startswith("kernelq")
        for breach in row.broken()
    ]
    for line in broken:
        print(f"FAILED {line}")
    save(options, {**record, "rows": [asdict(row) for row in rows], "failures": broken})
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
