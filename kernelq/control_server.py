"""The server's end of the control socket: a thread of the service process.

A request is a line of JSON, {"do": "cache.list", ...}; its answer is one too, {"ok": true, ...} or
{"ok": false, "error": "..."}. A connection may carry several, one after the other; after `events`
with follow it carries events until its end. docs/control.md has all of it.

Rules: the user that serves and root may do everything, members of one group may look, all others
are refused (as the kernel knows who connected). Everything is bounded: clients, bytes of a line,
entries of an answer, events that wait for a follower, seconds without progress, seconds until the
managers answer. A client that is slow or silent costs a place among the clients, and loses it to
the next one that comes; the managers and the core never wait for one. A request that fails is an
answer; no request ends the thread.

Facts: a unix socket that its peer has closed fails a send() of nothing with EPIPE, one that its
peer has only shut down for writing does not: so `echo ... | nc -NU PATH` gets its answer.
"""

import json
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kernelq import log, peers
from kernelq.control_commands import Command, Following, cache_commands
from kernelq.desk import Answer, Arguments, Pending
from kernelq.protocol import ADMIN, READ, Row, check_arguments

if TYPE_CHECKING:
    from kernelq.pool.journal import Follower

__all__ = ["ControlServer", "cache_commands"]

CLIENTS_MAX = 32
LINE_BYTES_MAX = 65536
SILENCE_SECONDS_MAX = 30.0
ACCEPT_PAUSE_SECONDS = 1.0

_REFUSED = "refused"
_LEVELS = (_REFUSED, READ, ADMIN)
_WHO_MAY = "only the user that serves, and root, may ask"
_ENDING = "the server is ending"


class _Client:
    """One connection: a request comes in, or is with the managers, or its answer goes out; or it
    follows the events.
    """

    def __init__(self, sock: socket.socket, peer: peers.Peer, level: str) -> None:
        self.socket = sock
        self.peer = peer
        self.level = level
        self.received = bytearray()
        self.out = memoryview(b"")
        self.is_last = False
        self.progress_at = time.monotonic()
        self.pending: Pending[Arguments] | None = None
        self.row: Row | None = None  # of what is pending
        self.answer_by = 0.0  # when something is pending
        self.follower: Follower | None = None
        self.is_deaf = False  # not looked at for reading while it waits
        self.watched = 0
        self.is_gone = False

    @property
    def is_waiting(self) -> bool:
        """For us: its silence is no fault."""
        return not self.out and (self.pending is not None or self.follower is not None)

    def wanted(self) -> int:
        """What to wait for on its socket."""
        if self.out:
            return selectors.EVENT_WRITE
        return 0 if self.is_waiting and self.is_deaf else selectors.EVENT_READ

    def due(self) -> float | None:
        """When something must be done without its doing."""
        if self.pending is not None:
            return self.answer_by
        if self.follower is not None:
            return None
        return self.progress_at + SILENCE_SECONDS_MAX

    def worth(self) -> tuple[int, bool, float]:
        """Who has least has to go when places are short."""
        return _LEVELS.index(self.level), self.is_waiting, self.progress_at


class ControlServer:
    """Answers requests on a listening unix socket, in a thread of its own.

    user: who may do everything besides root; readers: the id of a group whose members may look.
    """

    def __init__(
        self,
        listener: socket.socket,
        commands: Mapping[str, Command],
        say: Callable[[int, str], None],
        user: int | None = None,
        readers: int | None = None,
    ) -> None:
        self._listener = listener
        self._commands = commands
        self._say = say
        self._users = {0, os.geteuid() if user is None else user}
        self._readers = readers
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, _Client] = {}
        self._accept_at = 0.0  # 0: now
        # What other threads say to this one.
        self._lock = threading.Lock()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._settled: deque[tuple[_Client, Pending[Arguments], Answer | None, str]] = deque()
        self._accepts = True
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="kernelq-control", daemon=True)

    def start(self) -> None:
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread.start()

    def stop_accepting(self) -> None:
        """Leave new clients to another process that has the same socket; who is here may stay."""
        self._accepts = False
        self._ring()

    def stop(self, patience: float = 2.0) -> None:
        """Give the last answers, as far as clients take them at once, and end the thread; one that
        is in the midst of a long command is not waited for.
        """
        self._is_stopping = True
        self._ring()
        self._thread.join(patience)

    def _ring(self) -> None:
        with self._lock:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    # The loop.

    def _run(self) -> None:
        while not self._is_stopping:
            try:
                self._turn()
            except Exception as found:
                self._say(log.ERROR, f"control socket: {type(found).__name__}: {found}")
                for client in list(self._clients.values()):
                    self._drop(client)
        self._take_settled()
        for client in list(self._clients.values()):
            self._say_goodbye(client)
        self._selector.close()
        self._listener.close()
        with self._lock:
            os.close(self._bell)
            self._bell = -1

    def _turn(self) -> None:
        """Whatever is ready now."""
        for key, _ in self._selector.select(self._seconds_to_wait()):
            if key.fd == self._bell:
                self._on_bell()
            elif key.fileobj is self._listener:
                self._accept()
            elif key.fd in self._clients:
                self._serve(self._clients[key.fd])
        now = time.monotonic()
        for client in list(self._clients.values()):
            due = client.due()
            if due is not None and now >= due:
                self._on_time(client)
        if self._accept_at and now >= self._accept_at and self._accepts:
            self._accept_at = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _seconds_to_wait(self) -> float | None:
        times = [due for client in self._clients.values() if (due := client.due()) is not None]
        times += [self._accept_at] if self._accept_at and self._accepts else []
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _on_bell(self) -> None:
        os.eventfd_read(self._bell)
        self._take_settled()
        for client in list(self._clients.values()):
            if client.follower is not None and not client.out:
                self._go_on(client)
        if not self._accepts and self._listener in self._selector.get_map():
            self._selector.unregister(self._listener)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as found:
            self._say(log.ERROR, f"control socket: cannot accept: {found.strerror}")
            self._selector.unregister(self._listener)
            self._accept_at = time.monotonic() + ACCEPT_PAUSE_SECONDS
            return
        sock.setblocking(False)
        try:
            peer = peers.peer_of(sock)
        except OSError as found:
            self._say(log.ERROR, f"control socket: who connected? {found.strerror}")
            sock.close()
            return
        if len(self._clients) >= CLIENTS_MAX:
            self._drop(min(self._clients.values(), key=_Client.worth))
        client = self._clients[sock.fileno()] = _Client(sock, peer, self._level_of(peer))
        if client.level == _REFUSED:
            self._answer(client, _refusal(_WHO_MAY), is_last=True)
        self._watch(client)

    def _level_of(self, peer: peers.Peer) -> str:
        if peer.user in self._users:
            return ADMIN
        return READ if self._readers is not None and self._readers in peer.groups else _REFUSED

    def _watch(self, client: _Client) -> None:
        wanted = client.wanted()
        if wanted == client.watched or client.is_gone:
            return
        if not client.watched:
            self._selector.register(client.socket, wanted)
        elif not wanted:
            self._selector.unregister(client.socket)
        else:
            self._selector.modify(client.socket, wanted)
        client.watched = wanted

    def _drop(self, client: _Client) -> None:
        client.is_gone = True
        del self._clients[client.socket.fileno()]
        if client.watched:
            self._selector.unregister(client.socket)
        if client.follower is not None:
            client.follower.close()
        client.socket.close()

    def _on_time(self, client: _Client) -> None:
        if client.pending is None:
            self._drop(client)
            return
        assert client.row is not None
        seconds = client.row.seconds
        if client.pending.cancel():
            text = f"not begun within {seconds:g} s: the managers stall; it will not be done"
        else:
            text = f"no answer within {seconds:g} s; it may still be done"
        client.pending = None
        self._answer(client, _refusal(text))
        self._serve(client)

    def _say_goodbye(self, client: _Client) -> None:
        if client.pending is not None:
            client.pending = None
            self._answer(client, _refusal(_ENDING))
        elif client.follower is not None and not client.out:
            self._go_on(client)
        try:
            client.socket.send(client.out, socket.MSG_NOSIGNAL)
        except OSError:
            pass  # it does not read, or is gone
        self._drop(client)

    # A client.

    def _serve(self, client: _Client) -> None:
        try:
            if client.out:
                self._send(client)
            elif client.is_waiting:
                self._listen(client)
            else:
                self._receive(client)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._drop(client)
        self._watch(client)

    def _listen(self, client: _Client) -> None:
        """Something comes from one that waits: the next request, which has time, or its end."""
        if client.socket.recv(1, socket.MSG_PEEK):
            if client.follower is not None:
                client.socket.recv(LINE_BYTES_MAX)
                return
        else:
            client.socket.send(b"", socket.MSG_NOSIGNAL)
        client.is_deaf = True

    def _receive(self, client: _Client) -> None:
        data = client.socket.recv(LINE_BYTES_MAX)
        if not data:
            self._drop(client)
            return
        client.progress_at = time.monotonic()
        client.received += data
        self._look_for_line(client)

    def _look_for_line(self, client: _Client) -> None:
        line, end, rest = client.received.partition(b"\n")
        if len(line) > LINE_BYTES_MAX:
            text = f"a line is longer than {LINE_BYTES_MAX} bytes"
            self._answer(client, _refusal(text), is_last=True)
        elif end:
            client.received = rest
            self._do(client, bytes(line))

    def _answer(self, client: _Client, answer: Answer, *, is_last: bool = False) -> None:
        client.out = memoryview(_line(answer))
        client.is_last = is_last
        client.is_deaf = False

    def _send(self, client: _Client) -> None:
        sent = client.socket.send(client.out, socket.MSG_NOSIGNAL)
        client.progress_at = time.monotonic()
        client.out = client.out[sent:]
        if client.out:
            return
        if client.is_last:
            self._drop(client)
        elif client.follower is not None:
            self._go_on(client)
        else:
            self._look_for_line(client)

    def _go_on(self, client: _Client) -> None:
        """Send a follower what has happened."""
        assert client.follower is not None
        lines = b"".join(_line(event) for event in client.follower.take())
        if lines:
            client.out = memoryview(lines)
        self._watch(client)

    # A request.

    def _do(self, client: _Client, line: bytes) -> None:
        """Answer it, or hand it to the managers."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            self._answer(client, _refusal("that is no JSON"))
            return
        if not isinstance(request, dict) or not isinstance(request.get("do"), str):
            self._answer(client, _refusal('allowed is {"do": "...", ...}'))
            return
        command = self._commands.get(request.pop("do"))
        if command is None:
            self._answer(client, _refusal(f"allowed is {', '.join(sorted(self._commands))}"))
            return
        try:
            self._run_command(client, command, request)
        except ValueError as found:
            self._answer(client, _refusal(str(found)))
        except Exception as found:
            self._say(log.ERROR, f"control socket: {type(found).__name__}: {found}")
            self._answer(client, _refusal("the server failed; its log says more"))

    def _run_command(self, client: _Client, command: Command, request: Arguments) -> None:
        row = command.row
        if row.level == ADMIN and client.level != ADMIN:
            raise ValueError(
                f"{row.name}: you may look and not touch; {_WHO_MAY.replace('ask', 'do that')}"
            )
        arguments = check_arguments(row, request)
        if row.level == ADMIN:
            words = json.dumps(arguments) if arguments else ""
            who = f"user {client.peer.user}, process {client.peer.pid}"
            self._say(log.INFO, f"control socket: {row.name} {words}".rstrip() + f" ({who})")
        outcome = command.run(arguments)
        if isinstance(outcome, Pending):
            self._await(client, row, outcome)
        elif isinstance(outcome, Following):
            answer, client.follower = outcome.open(self._ring)
            client.received.clear()
            self._answer(client, {"ok": True, **answer})
        else:
            self._answer(client, {"ok": True, **outcome})

    def _await(self, client: _Client, row: Row, pending: Pending[Arguments]) -> None:
        client.pending, client.row = pending, row
        client.answer_by = time.monotonic() + row.seconds
        client.is_deaf = bool(client.received)

        def on_settled(answer: Answer | None, text: str) -> None:
            self._settled.append((client, pending, answer, text))
            self._ring()

        pending.then(on_settled)

    def _take_settled(self) -> None:
        while self._settled:
            client, pending, answer, text = self._settled.popleft()
            if client.pending is not pending or client.is_gone:
                continue  # it has left, or was told that there will be none in time
            client.pending = None
            try:
                self._answer(client, _refusal(text) if answer is None else {"ok": True, **answer})
            except (TypeError, ValueError) as found:
                self._say(log.ERROR, f"control socket: {type(found).__name__}: {found}")
                self._answer(client, _refusal("the server failed; its log says more"))
            if not self._is_stopping:
                self._serve(client)


def _line(answer: Answer) -> bytes:
    return json.dumps(answer).encode("ascii") + b"\n"


def _refusal(text: str) -> Arguments:
    return {"ok": False, "error": text}
