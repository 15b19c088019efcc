"""How does a web garden follow its load? A pool that may grow to four workers, under load that
comes, stays, drops and goes.

    python -m bench.macro.garden [--seconds N]

The application waits 20 ms for each request, as for a database; two requests run at a time in one
worker, so that a worker answers about a hundred in a second. Each phase has so many clients, with
a request each at any time. Twice a second the control socket says how many workers there are and
what waits. A good garden has no more workers than a phase needs, does not swing while a phase
lasts, and loses nothing while it changes.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.macro.client import Connection, Malformed, request
from bench.macro.peers import ROOT
from bench.macro.report import show_table
from bench.macro.server import free_port, prepare
from kernelq.control import Client, ControlError

PHASES = (("nobody", 0), ("one", 1), ("many", 16), ("a few", 3), ("nobody", 0))
LOOK_SECONDS = 0.5
START_SECONDS = 20.0

APPLICATION = """\
import time

def application(environ, start_response):
    time.sleep(0.02)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""
CONFIGURATION = """\
[server]
control = "{folder}/control"

[[pool]]
name = "garden"
max_processes = 4
threads = 2
shrink_after = "{shrink}s"
idle_timeout = "{shrink}s"

[[site]]
name = "garden"
bindings = ["127.0.0.1:{port}:"]
[[site.application]]
path = "/"
app = "app:application"
pool = "garden"
"""


@dataclass
class Phase:
    name: str
    clients: int
    workers: list[int] = field(default_factory=list)  # at each look
    oldest_ms: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Clients:
    """So many at a time ask again and again."""

    def __init__(self, port: int, phase: Phase) -> None:
        self._port = port
        self._phase = phase
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(phase.clients)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        try:
            with Connection(self._port) as connection:
                while not self._over.is_set():
                    (response,) = connection.exchange(request())
                    self._note(str(response.status))
        except (OSError, Malformed) as found:
            self._note(type(found).__name__)

    def _note(self, outcome: str) -> None:
        with self._lock:
            self._phase.outcomes[outcome] += 1


def watch(phase: Phase, client: Client, seconds: float) -> None:
    until = time.monotonic() + seconds
    began = time.monotonic()
    while time.monotonic() < until:
        (pool,) = client.pools()
        phase.workers.append(pool["processes"]["now"])
        phase.oldest_ms = max(phase.oldest_ms, pool["queue"]["oldest_ms"])
        time.sleep(LOOK_SECONDS)
    phase.seconds = time.monotonic() - began


def await_control(path: Path) -> Client:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            client = Client(path)
            client.status()
        except ControlError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return client


def row(phase: Phase) -> list[str]:
    changes = sum(a != b for a, b in zip(phase.workers, phase.workers[1:], strict=False))
    failed = sum(count for outcome, count in phase.outcomes.items() if outcome != "200")
    return [
        phase.name,
        str(phase.clients),
        "".join(map(str, phase.workers)),
        str(changes),
        f"{phase.outcomes['200'] / phase.seconds:.0f}",
        str(phase.oldest_ms),
        str(failed),
    ]


def run(options: argparse.Namespace, folder: Path) -> list[Phase]:
    port = free_port()
    (folder / "app.py").write_text(APPLICATION)
    text = CONFIGURATION.format(folder=folder, port=port, shrink=options.shrink)
    (folder / "kernelq.toml").write_text(text)
    command = [options.python, "-m", "kernelq", "--config", str(folder / "kernelq.toml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    phases = [Phase(name, clients) for name, clients in PHASES]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stderr=log)
    try:
        with await_control(folder / "control") as client:
            for phase in phases:
                with Clients(port, phase):
                    watch(phase, client, options.seconds)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(START_SECONDS)
    return phases


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.macro.garden", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase")
    parser.add_argument("--shrink", type=int, default=2, help="shrink_after and idle_timeout")
    parser.add_argument("--python", default=sys.executable, help="the interpreter with kernelq")
    options = parser.parse_args()
    prepare(1024)
    with tempfile.TemporaryDirectory(prefix="kernelq-garden-") as folder:
        phases = run(options, Path(folder))
    head = [
        "phase",
        "clients",
        "workers, twice a second",
        "changes",
        "req/s",
        "oldest ms",
        "failed",
    ]
    show_table([head, *map(row, phases)])
    for phase in phases:
        for outcome, count in phase.outcomes.items():
            if outcome != "200":
                print(f"{phase.name}: {count} times {outcome}")
    return int(any(outcome != "200" for phase in phases for outcome in phase.outcomes))


if __name__ == "__main__":
    sys.exit(main())
