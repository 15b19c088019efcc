"""Makes hostile workers: forks one for each message, and passes its pidfd back.

argv: the descriptor of the socket to the test's core, the descriptor of the tally. The tally is
shared by all: per seat (of which one worker at a time has each) the number of mutations, breaches
and errors, then the text of the last breach or error.
"""

import contextlib
import json
import mmap
import os
import socket
import sys
import traceback

from hostile_acts import Breach, Life
from hostile_channel import RawChannel

SEAT_BYTES = 4096
FDS_MAX = 3 + 2 * 64


class Tally:
    """One seat of the shared tally."""

    def __init__(self, shared: mmap.mmap, seat: int) -> None:
        self._shared = shared
        self._at = seat * SEAT_BYTES
        self._words = memoryview(shared)[self._at : self._at + 24].cast("Q")

    def count(self, what: int = 0) -> None:
        self._words[what] += 1

    def note(self, what: int, text: str) -> None:
        data = text.encode()[-2000:]
        self._shared[self._at + 64 : self._at + 64 + len(data) + 1] = data + b"\0"
        self.count(what)


def run(fds: list[int], order: dict[str, int], tally: Tally) -> None:
    try:
        Life(RawChannel(fds), order["seed"], tally.count).live()
    except Breach as breach:
        tally.note(1, str(breach))
    except (BrokenPipeError, ConnectionError):
        pass
    except Exception:
        tally.note(2, f"seed {order['seed']}\n{traceback.format_exc()}")
    os._exit(0)


def reap() -> None:
    """Forget the children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def main() -> None:
    link = socket.socket(fileno=int(sys.argv[1]))
    shared = mmap.mmap(int(sys.argv[2]), 0)
    while True:
        message, fds, _, _ = socket.recv_fds(link, 4096, FDS_MAX)
        if not message:
            return
        reap()
        order = json.loads(message)
        pid = os.fork()
        if pid == 0:
            link.close()
            run(fds, order, Tally(shared, order["seat"]))
        pidfd = os.pidfd_open(pid)
        socket.send_fds(link, [str(pid).encode()], [pidfd])
        os.close(pidfd)
        for fd in fds:
            os.close(fd)


if __name__ == "__main__":
    main()
