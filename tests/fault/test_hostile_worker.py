"""Workers that do whatever they can to the core: it answers every request that it did not hand to
one of them, never crashes, never hangs, and loses nothing.

The core runs in a process of its own, beside two honest workers; hostile ones follow one another
in a few seats. A request that was handed to a hostile worker may end in any way that HTTP allows;
every other one must be answered by an honest worker, byte for byte. What a hostile worker was
handed is read from the memory of its channel, not from what it says.
"""

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hostile_load import PATIENCE, Load

HERE = Path(__file__).parent
KEY = "only honest workers know this"
SEATS = 3
SEAT_BYTES = 4096
TURN_NS_MAX = 50_000_000


class Field:
    """The core's process, as the test sees it."""

    def __init__(self, **settings: object) -> None:
        self.link, theirs = socket.socketpair()
        tally_fd = os.memfd_create("tally", 0)
        os.truncate(tally_fd, SEATS * SEAT_BYTES)
        self.tally = mmap.mmap(tally_fd, 0)
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(HERE / "hostile_core.py")),
                *(str(theirs.fileno()), str(tally_fd), KEY, json.dumps(settings)),
            ],
            pass_fds=(theirs.fileno(), tally_fd),
        )
        theirs.close()
        os.close(tally_fd)
        self.offered: set[str] = set()
        self.reports: list[dict] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = self.wait("port")

    def _read(self) -> None:
        for line in self.link.makefile("rb"):
            report = json.loads(line)
            with self._changed:
                self.offered.update(report.pop("offered", ()))
                if report:
                    self.reports.append(report)
                self._changed.notify_all()
        with self._changed:
            self.reports.append({"problem": "the core's process has ended"})
            self._changed.notify_all()

    def wait(self, what: str, limit: float = PATIENCE) -> object:
        """The next report of this kind, and no problem before it."""
        with self._changed:
            while True:
                for report in self.reports:
                    if what in report or "problem" in report:
                        self.reports.remove(report)
                        assert "problem" not in report, report["problem"]
                        return report[what]
                assert self._changed.wait(limit), f"no report of {what!r} came"

    def order(self, **what: object) -> None:
        self.link.sendall(json.dumps(what).encode() + b"\n")

    def start_honest(self, count: int) -> None:
        self.order(honest=count)
        for _ in range(count):
            self.wait("honest")

    def stats(self) -> dict[str, int]:
        self.order(stats=1)
        return self.wait("stats")

    def count(self, what: int) -> int:
        """Over all seats: 0 mutations, 1 breaches, 2 errors."""
        words = memoryview(self.tally).cast("Q")
        return sum(words[seat * SEAT_BYTES // 8 + what] for seat in range(SEATS))

    def notes(self) -> list[str]:
        texts = []
        for seat in range(SEATS):
            at = seat * SEAT_BYTES + 64
            texts.append(self.tally[at : at + 2000].partition(b"\0")[0].decode())
        return [text for text in texts if text]

    def finish(self) -> dict[str, int]:
        self.process.send_signal(signal.SIGTERM)
        end = self.wait("end")
        assert self.process.wait(PATIENCE) == 0
        return end

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE)
        self.link.close()
        self.tally.close()


@pytest.fixture
def field():
    """`field(**settings)`: a core in its own process."""
    fields = []

    def start(**settings: object) -> Field:
        fields.append(Field(**settings))
        return fields[-1]

    yield start
    for one in fields:
        one.close()


def run_campaign(field: Field, lives: int, seed: int) -> tuple[Load, dict[str, int]]:
    """Hostile workers among honest ones, under load. Gives what the clients saw and the end."""
    field.start_honest(2)
    before = field.stats()
    load = Load(field.port, KEY.encode(), clients=8, seed=seed)
    load.start()
    field.order(lives=lives, seats=SEATS, seed=seed)
    field.wait("campaign", PATIENCE + lives)
    load.stop()
    after = field.stats()
    assert after["fds"] <= before["fds"] + 2, "descriptors were left behind"
    return load, field.finish()


def check_campaign(field: Field, load: Load, end: dict[str, int]) -> None:
    assert not load.problems
    assert field.count(1) == 0, field.notes()
    assert field.count(2) == 0, field.notes()
    wronged = {
        target: outcome
        for target, outcome in load.outcomes.items()
        if outcome != "honest" and target not in field.offered
    }
    assert not wronged
    assert load.count("honest") > 0
    for gauge in ("exchanges_now", "chunks_now", "connections_now", "queued"):
        assert end[gauge] == 0, gauge
    if end["has_precedence"]:
        assert end.get("turn_ns_max", 0) < TURN_NS_MAX


@pytest.mark.parametrize("loops", [1, 2])
def test_a_hostile_worker_harms_nobody_else(field, loops):
    core = field(loops=loops)
    load, end = run_campaign(core, lives=800, seed=loops * 1_000_000)
    check_campaign(core, load, end)
    assert core.count(0) > 100  # mutations


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_mutations(field):
    core = field(loops=2)
    load, end = run_campaign(core, lives=26_000, seed=7_000_000)
    check_campaign(core, load, end)
    assert core.count(0) >= 100_000
