"""A core in a process of its own, from the test's side."""

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from hostile_load import PATIENCE

HERE = Path(__file__).parent
KEY = "only honest workers know this"
SEATS = 3
SEAT_BYTES = 4096


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

    def start_honest(self, count: int) -> list[int]:
        """Their numbers, once they are ready."""
        self.order(honest=count)
        return [self.wait("honest") for _ in range(count)]

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
