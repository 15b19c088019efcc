"""sd_notify: telling systemd how far we are. Only the main process talks, so that NotifyAccess=main
is enough.
"""

import os
import socket
import time
from collections.abc import MutableMapping


class Notifier:
    """The socket that systemd passed, or nothing."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        self.watchdog_ns = _watchdog_ns(environment)

    def send(self, text: str) -> None:
        """Lines such as READY=1; never waits, never fails."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), address)
        except OSError:
            pass  # systemd will notice by itself that it was not told


def reloading() -> str:
    """The lines that open a reload; READY=1 ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def _watchdog_ns(environment: MutableMapping[str, str]) -> int:
    """How often to say WATCHDOG=1: half of what systemd grants; 0 for never."""
    period = environment.pop("WATCHDOG_USEC", "")
    owner = environment.pop("WATCHDOG_PID", "")
    if not period.isdigit() or owner not in ("", str(os.getpid())):
        return 0
    return int(period) * 1000 // 2
