"""An upgrade: one main process hands everything over to another one, which may be of another
version, without a client's noticing.

Theory of operation. The old main process starts the new one like itself: the same interpreter,
arguments, folder and environment. It passes copies of the listening sockets by name; the new one
uses those that its configuration still names, opens others, and starts service, spawner and workers
of its own. When it serves it says so. Both accept connections now; a connection stays with whoever
accepted it. Then the old one tells systemd who the main process is, lets go of the control socket,
stops accepting and finishes, within its graceful timeout. A new one that ends before it serves
changes nothing.

Rules: nothing of one version's memory or pickles reaches the other: names in JSON, and sockets. The
response cache is not handed over (docs/decisions/019).
"""

import json
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

from kernelq import __version__, linux
from kernelq.binding import Listener
from kernelq.endpoints import CONTROL, Given, listeners_from
from kernelq.errors import StartError
from kernelq.letters import Heir
from kernelq.link import Link, link_from, link_pair
from kernelq.parcel import Receiver, send_parcel
from kernelq.processes import fork_process

VARIABLE = "KERNELQ_UPGRADE"  # the number of the descriptor over which a predecessor speaks
PATIENCE_SECONDS = 10.0

# What was meant for the old process alone.
_NOT_INHERITED = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID", VARIABLE)


@dataclass(frozen=True, slots=True)
class Origin:
    """How this process was started, before it changed anything: how to start the same again."""

    command: tuple[str, ...] = ()
    directory: str = "."
    environment: Mapping[str, str] = field(default_factory=dict)
    predecessor: "Predecessor | None" = None  # who started it in order to be replaced

    @property
    def given(self) -> Given:
        """The sockets that it was lent."""
        return {} if self.predecessor is None else self.predecessor.given


class Heiress:
    """The new main process, as the old one sees it."""

    def __init__(self, origin: Origin, config_file: str) -> None:
        self._origin = origin
        # A file that was found, not named, may be gone: then it must not start something else.
        is_named = any(word.startswith("--config") for word in origin.command)
        named = () if is_named or not config_file else ("--config", config_file)
        self._command = (*origin.command, *named)
        self._link: Link | None = None
        self.pid = 0
        self.words = ""  # what it says of itself when it serves (JSON)

    def begin(self, data: bytes, descriptors: list[int]) -> None:
        """Start it, with these sockets (names in JSON); takes them. OSError."""
        ours, theirs = link_pair()
        try:
            self.pid = fork_process(lambda: self._become(theirs), [theirs.fileno()])
            send_parcel(ours, Heir.SOCKETS, data, descriptors)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            for descriptor in descriptors:
                os.close(descriptor)
        self._link = ours

    def _become(self, link: Link) -> int:
        environment = {
            name: value
            for name, value in self._origin.environment.items()
            if name not in _NOT_INHERITED
        }
        environment[VARIABLE] = str(link.fileno())
        os.set_inheritable(link.fileno(), True)
        linux.adopt_orphans(False)
        os.chdir(self._origin.directory)
        os.execve(sys.executable, self._command, environment)

    def fileno(self) -> int:
        return -1 if self._link is None else self._link.fileno()

    def is_serving(self) -> bool:
        """Its next word; False: it has none, and will not serve."""
        assert self._link is not None
        try:
            message = self._link.receive()
        except ValueError:
            return False
        if message is None:
            return False
        message.close_descriptors()
        self.words = message.text
        return message.kind == Heir.SERVING

    def stop(self) -> None:
        """It shall not serve after all."""
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)

    def hand_over(self) -> None:
        """The control socket is its own now."""
        assert self._link is not None
        self._link.try_send(Heir.YOURS)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


class Predecessor:
    """The old main process, as the new one sees it."""

    def __init__(self, link: Link, given: Given, control: Listener | None) -> None:
        self._link = link
        self.given = given
        self.control = control

    def take_over(self, service_pid: int) -> None:
        """Say that we serve, and wait until the old one has let go. One that has died has, too."""
        try:
            words = {"version": __version__, "service_pid": service_pid}
            self._link.send(Heir.SERVING, text=json.dumps(words))
            if self._link.wait(PATIENCE_SECONDS):
                message = self._link.receive()
                if message is not None:
                    message.close_descriptors()
        except (OSError, ValueError):
            pass
        self._link.close()


def find_predecessor(environment: MutableMapping[str, str]) -> Predecessor | None:
    """Who started us in order to be replaced, with the sockets that it lends; None: nobody.

    StartError when it died in the midst of it.
    """
    text = environment.pop(VARIABLE, "")
    if not text.isdigit():
        return None
    link = link_from(int(text))
    os.set_inheritable(link.fileno(), False)
    receiver = Receiver()
    parcel = None
    while parcel is None:
        message = link.receive()
        if message is None or message.kind != Heir.SOCKETS:
            raise StartError("upgrade: the server to be replaced ended meanwhile")
        parcel = receiver.add(message)
    names, descriptors = json.loads(parcel[0]), parcel[1]
    given = listeners_from(names, descriptors)
    controls = given.pop(CONTROL, [])
    return Predecessor(link, given, controls[0] if controls else None)


def find_origin(environment: MutableMapping[str, str]) -> Origin:
    """Before anything of the environment is used up. StartError as find_predecessor()."""
    return Origin(
        command=(sys.executable, *sys.orig_argv[1:]),
        directory=os.getcwd(),
        environment=dict(environment),
        predecessor=find_predecessor(environment),
    )
