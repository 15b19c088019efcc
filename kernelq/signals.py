"""Signals as bytes on a socket, so that a selector waits for them like for everything else."""

import signal
import socket
from collections.abc import Iterable
from types import FrameType


def _arrived(number: int, frame: FrameType | None) -> None:
    # The number has already been written to the wake-up socket; the handler only keeps the default
    # action away.
    del number, frame


class SignalQueue:
    """The signals that have arrived, in order, coalesced as the kernel does."""

    def __init__(self, wanted: Iterable[int], ignored: Iterable[int] = ()) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in wanted:
            signal.signal(number, _arrived)
            signal.siginterrupt(number, False)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    def fileno(self) -> int:
        return self._reader.fileno()

    def take(self) -> list[int]:
        """The numbers of the signals that came since the last call."""
        numbers: list[int] = []
        while True:
            try:
                data = self._reader.recv(4096)
            except BlockingIOError:
                return numbers
            numbers.extend(data)

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()


def restore_defaults() -> None:
    """Forget what the parent process had set; for the first lines of a forked child."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if signal.getsignal(number) not in (signal.SIG_DFL, None) and number != signal.SIGPIPE:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
