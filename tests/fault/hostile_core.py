"""A Core in a process of its own, with the smallest manager that will do: so that a crash or a hang
of the core is seen as such, and nothing of the test is in its address space.

argv: the descriptor of the socket to the test, the descriptor of the tally, the key of the honest
workers, the settings as JSON. Orders and reports are lines of JSON.
"""

import contextlib
import dataclasses
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from hostile_channel import requests_in
from hostile_honest import THREADS

from kernelq import _core
from kernelq.config import CorePoolSettings, CoreSettings

HERE = Path(__file__).parent
LIFE_LIMIT = 0.5  # seconds after which a hostile worker that does nothing is ended
LOG_LEVEL = 50  # thousands of lines about distrusted workers help nobody
PATIENCE = 60.0
POOL_SETTINGS = {field.name for field in dataclasses.fields(CorePoolSettings)}


def take_precedence() -> bool:
    """The core's threads run before anything else on this machine, if we may say so: how long a
    turn takes is then the core's own affair."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except OSError:
        return False
    return True


def give_precedence() -> None:
    """In a child: as everybody else."""
    os.setpriority(os.PRIO_PROCESS, 0, 0)


class Hostile:
    """What is known of one hostile worker."""

    def __init__(self, seat: int, core_memory: mmap.mmap) -> None:
        self.seat = seat
        self.core_memory = core_memory
        self.pidfd = -1
        self.since = time.monotonic()


class Manager:
    def __init__(self, link: socket.socket, tally_fd: int, key: str, settings: dict) -> None:
        self.link = link
        self.key = key
        self.has_precedence = take_precedence()
        limits = {name: settings.pop(name) for name in POOL_SETTINGS if name in settings}
        self.core = _core.Core(CoreSettings(log_level=LOG_LEVEL, **settings))
        self.pool = self.core.pool_open(CorePoolSettings(threads=THREADS, **limits))
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.listener.setblocking(False)
        number = self.core.add_listener(os.dup(self.listener.fileno()))
        self.core.set_routes([(number, b"", "", b"/", 0, self.pool, 0, 0, True)])
        self.port = self.listener.getsockname()[1]
        self.listener.close()
        self.core.start()
        self.honest: dict[int, subprocess.Popen] = {}
        self.leaving: set[int] = set()
        self.hostile: dict[int, Hostile] = {}
        self.lives = 0
        self.seed = 0
        self.is_quiet = False
        self.events: dict[str, int] = {}
        self.zygote = self.start_zygote(tally_fd)
        self.poll = select.poll()
        self.poll.register(self.core.event_fd, select.POLLIN)
        self.poll.register(link, select.POLLIN)

    def start_zygote(self, tally_fd: int) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = str(HERE / "hostile_zygote.py")
        # Sanitizers are for the core; what a hostile worker does to itself is its own affair.
        environ = {name: text for name, text in os.environ.items() if name != "LD_PRELOAD"}
        self.zygote_process = subprocess.Popen(
            [sys.executable, path, str(theirs.fileno()), str(tally_fd)],
            pass_fds=(theirs.fileno(), tally_fd),
            preexec_fn=give_precedence,
            env=environ,
        )
        theirs.close()
        return ours

    # -- workers ---------------------------------------------------------------------------------

    def start_honest(self) -> None:
        number, fds = self.core.channel_open(self.pool, 0)
        process = subprocess.Popen(
            [sys.executable, str(HERE / "hostile_honest.py"), self.key, *map(str, fds)],
            pass_fds=fds,
            preexec_fn=give_precedence,
        )
        self.honest[number] = process
        self.core.worker_attach(number, process.pid, os.pidfd_open(process.pid))
        for fd in fds:
            os.close(fd)

    def start_hostile(self, seat: int) -> None:
        self.lives -= 1
        self.seed += 1
        number, fds = self.core.channel_open(self.pool, 0)
        order = json.dumps({"seed": self.seed, "seat": seat}).encode()
        socket.send_fds(self.zygote, [order], fds)
        message, (pidfd, *_), _, _ = socket.recv_fds(self.zygote, 100, 1)
        worker = Hostile(seat, mmap.mmap(fds[0], 0, prot=mmap.PROT_READ))
        worker.pidfd = os.dup(pidfd)
        self.hostile[number] = worker
        self.core.worker_attach(number, int(message), pidfd)
        for fd in fds:
            os.close(fd)

    def on_gone(self, number: int) -> None:
        if number in self.honest:
            status = self.honest.pop(number).wait(PATIENCE)
            if not self.is_quiet and number not in self.leaving:
                self.report(problem=f"an honest worker ended with status {status}")
            self.core.worker_forget(number)
            self.report(gone=number)
            return
        worker = self.hostile.pop(number)
        self.report(offered=[request.target for request in requests_in(worker.core_memory)])
        worker.core_memory.close()
        os.close(worker.pidfd)
        self.core.worker_forget(number)
        if self.lives > 0:
            self.start_hostile(worker.seat)
        elif not self.hostile:
            self.report(campaign="over")

    def end_overdue(self) -> None:
        now = time.monotonic()
        for worker in self.hostile.values():
            if now > worker.since + LIFE_LIMIT:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)

    # -- orders ----------------------------------------------------------------------------------

    def report(self, **what: object) -> None:
        self.link.sendall(json.dumps(what).encode() + b"\n")

    def on_events(self) -> None:
        for name, number, _ in self.core.take_events():
            self.events[name] = self.events.get(name, 0) + 1
            if name == "gone":
                self.on_gone(number)
            elif name == "quiet":
                self.is_quiet = True
            elif name == "ready" and number in self.honest:
                self.report(honest=number)

    def on_order(self, order: dict) -> None:
        if "honest" in order:
            for _ in range(order["honest"]):
                self.start_honest()
        elif "kill" in order:
            self.leaving.add(order["kill"])
            self.honest[order["kill"]].kill()
        elif "drain" in order:
            self.leaving.add(order["drain"])
            self.core.worker_drain(order["drain"])
        elif "lives" in order:
            self.lives, self.seed = order["lives"], order["seed"]
            for seat in range(order["seats"]):
                self.start_hostile(seat)
        elif "stats" in order:
            self.report(stats={**self.core.stats(), "fds": len(os.listdir("/proc/self/fd"))})

    def turn(self) -> None:
        for fd, _ in self.poll.poll(100):
            if fd == self.core.event_fd:
                self.on_events()
            else:
                for line in self.link.recv(65536).splitlines():
                    self.on_order(json.loads(line))
        self.end_overdue()

    def finish(self) -> None:
        """Clients have gone; let go of everything, and say what is left."""
        self.core.begin_shutdown()
        while not self.is_quiet:
            self.turn()
        for number in self.honest:
            self.core.worker_drain(number)
        while self.honest:
            self.turn()
        end = {**self.core.stats(), "has_precedence": self.has_precedence, "events": self.events}
        self.report(end=end)
        self.core.stop()
        self.zygote.close()
        self.zygote_process.wait(PATIENCE)


def main() -> None:
    link = socket.socket(fileno=int(sys.argv[1]))
    manager = Manager(link, int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
    manager.report(port=manager.port)
    finishes = False

    def finish(_signal: int, _frame: object) -> None:
        nonlocal finishes
        finishes = True

    signal.signal(signal.SIGTERM, finish)
    while not finishes:
        manager.turn()
    manager.finish()


if __name__ == "__main__":
    main()
