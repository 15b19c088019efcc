"""What does a server take that does nothing: memory, wake-ups, and memory per idle connection?

    python -m bench.macro.memory [--peers A,B] [--connections N] [--seconds N]

One row for each process. PSS counts a page that two processes share half for each. Wake-ups are
voluntary context switches of all threads while no client is there. Bytes per connection are what
the process grew by (PSS) when so many clients had each had one answer and kept their connection.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bench.macro import proc
from bench.macro.client import IdleConnections, Malformed
from bench.macro.load import Load, generate
from bench.macro.peers import PEERS, Peer
from bench.macro.report import opening, options_of, save, show_table
from bench.macro.server import Failed, Server, prepare

if TYPE_CHECKING:
    import argparse

SUBJECTS = ("kernelq", "nginx", "fastpysgi", "bjoern", "granian", "uwsgi", "gunicorn", "waitress")
SPARE_DESCRIPTORS = 1000
SETTLE_SECONDS = 2.0
UNKNOWN = proc.Memory(0, 0)


@dataclass(frozen=True)
class Row:
    peer: str
    process: str
    pss: int  # KiB; 0: the kernel does not tell
    private: int
    wakes: float  # per 10 seconds
    per_connection: float  # bytes


def memories(pids: list[int]) -> dict[int, proc.Memory]:
    return {pid: proc.memory(pid) or UNKNOWN for pid in pids}


def wakes(pids: list[int], seconds: float) -> dict[int, float]:
    before = {pid: proc.switches(pid)[0] for pid in pids}
    time.sleep(seconds)
    return {pid: 10 * (proc.switches(pid)[0] - count) / seconds for pid, count in before.items()}


def measure(peer: Peer, options: argparse.Namespace) -> list[Row]:
    with Server(peer, options.python) as server:
        generate(Load("/", 64), server.port, 1, (0, 1))  # what grows once has grown
        time.sleep(SETTLE_SECONDS)
        pids = server.pids()
        idle = memories(pids)
        woken = wakes(pids, options.seconds)
        count = 0 if "idle" in peer.cannot else options.connections
        with IdleConnections(server.port, count) as connections:
            held = memories(pids)
            if lost := connections.lost():
                raise Malformed(f"{lost} idle connections lost")
        rows = [
            Row(
                peer=peer.name,
                process="  " * depth(pid, pids) + proc.title(pid),
                pss=idle[pid].pss,
                private=idle[pid].private,
                wakes=woken[pid],
                per_connection=1024 * (held[pid].pss - idle[pid].pss) / count if count else 0.0,
            )
            for pid in pids
        ]
    return [*rows, total(peer, rows)]


def depth(pid: int, pids: list[int]) -> int:
    """How many of the server's other processes are above this one."""
    levels = 0
    while (pid := int(proc.stat(pid)[1])) in pids:
        levels += 1
    return levels


def total(peer: Peer, rows: list[Row]) -> Row:
    """Only here do figures per connection mean something where processes share pages: a page that
    one of them has just copied counts for the other, too."""
    return Row(
        peer=peer.name,
        process="all",
        pss=sum(row.pss for row in rows),
        private=sum(row.private for row in rows),
        wakes=sum(row.wakes for row in rows),
        per_connection=sum(row.per_connection for row in rows),
    )


def show(rows: list[Row]) -> None:
    table = [["", "process", "PSS KiB", "private KiB", "wake-ups/10 s", "B/connection"]]
    for row in rows:
        sizes = [f"{size:,}" if size else "-" for size in (row.pss, row.private)]
        activity = [f"{row.wakes:,.0f}", f"{row.per_connection:,.0f}"]
        table.append([row.peer, row.process, *sizes, *activity])
    show_table(table, left=2)


def parse_options() -> argparse.Namespace:
    parser = options_of("memory", "Measures what idle servers take.", SUBJECTS)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="to count wake-ups in")
    parser.add_argument("--quick", action="store_true", help="one second, 1,000 connections")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.connections = 1.0, 1000
    return options


def main() -> int:
    options = parse_options()
    prepare(options.connections + SPARE_DESCRIPTORS)
    names, record = opening(options)
    print(f"{options.connections:,} connections, {options.seconds:g} s of silence\n")
    rows: list[Row] = []
    failures = []
    for name in names:
        try:
            rows += measure(PEERS[name], options)
        except (Failed, Malformed, OSError) as error:
            failures.append(f"{name}: {error}")
        except KeyboardInterrupt:
            failures.append("interrupted")
            break
    show(rows)
    for failure in failures:
        print(f"FAILED {failure}")
    save(options, {**record, "rows": [asdict(row) for row in rows], "failures": failures})
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
