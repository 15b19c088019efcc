"""The server's end of the control socket: a thread of the service process.

A request is a line of JSON, {"do": "cache.list", ...}; its answer is one too, {"ok": true, ...} or
{"ok": false, "error": "..."}. A connection may carry several, one after the other.

Rules: only the user that serves and root are answered (SO_PEERCRED: who connected, as the kernel
knows it). Everything is bounded: clients, bytes of a line, entries of an answer, seconds without
progress. A client that is slow or silent costs a place among the clients, and loses it to the next
one that comes; the managers and the core never wait for one. A request that fails is an answer; no
request ends the thread.
"""

import json
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kernelq import log

CLIENTS_MAX = 16
LINE_BYTES_MAX = 65536
SILENCE_SECONDS_MAX = 30.0
ACCEPT_PAUSE_SECONDS = 1.0
ENTRIES_MAX = 1000  # of one answer

Arguments = dict[str, Any]
Command = Callable[[Arguments], Arguments]

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class CacheCore(Protocol):
    """What the commands about the response cache ask of the core."""

    def cache_list(self, prefix: str, most: int) -> list[dict[str, Any]]: ...
    def cache_show(self, url: str) -> list[dict[str, Any]]: ...
    def cache_flush(self, prefix: str, recursive: bool) -> int: ...
    def cache_flush_group(self, origin: str, name: str) -> None: ...
    def stats(self) -> dict[str, int]: ...


def cache_commands(core: CacheCore) -> dict[str, Command]:
    """The commands about the response cache. What the core refuses is a ValueError."""

    def list_(arguments: Arguments) -> Arguments:
        most = min(_take(arguments, "most", int, ENTRIES_MAX), ENTRIES_MAX)
        if most < 1:
            raise ValueError("most: found none, allowed is a number from 1")
        entries = core.cache_list(_take(arguments, "prefix", str, ""), most + 1)
        return {"entries": entries[:most], "complete": len(entries) <= most}

    def show(arguments: Arguments) -> Arguments:
        return {"entries": core.cache_show(_take(arguments, "url", str))}

    def flush(arguments: Arguments) -> Arguments:
        prefix = _take(arguments, "prefix", str)
        return {"flushed": core.cache_flush(prefix, _take(arguments, "recursive", bool, True))}

    def flush_group(arguments: Arguments) -> Arguments:
        core.cache_flush_group(_take(arguments, "origin", str, ""), _take(arguments, "group", str))
        return {}

    def counters(_: Arguments) -> Arguments:
        figures = core.stats()
        return {"counters": {name: n for name, n in figures.items() if name.startswith("cache_")}}

    return {
        "cache.counters": counters,
        "cache.list": list_,
        "cache.show": show,
        "cache.flush": flush,
        "cache.flush_group": flush_group,
    }


def _take(arguments: Arguments, name: str, kind: type, default: Any = None) -> Any:
    """One argument, checked; ValueError for one that is missing or of another kind."""
    value = arguments.pop(name, default)
    if type(value) is not kind:
        raise ValueError(f"{name}: found {value!r}, allowed is a value of type {kind.__name__}")
    return value


class _Client:
    """One connection: either a request comes in, or its answer goes out."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received = bytearray()
        self.answer = b""
        self.is_last = False
        self.progress_at = time.monotonic()


class ControlServer:
    """Answers requests on a listening unix socket, in a thread of its own."""

    def __init__(
        self,
        listener: socket.socket,
        commands: Mapping[str, Command],
        say: Callable[[int, str], None],
        user: int | None = None,
    ) -> None:
        self._listener = listener
        self._commands = commands
        self._say = say
        self._users = {0, os.geteuid() if user is None else user}
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, _Client] = {}
        self._accept_at = 0.0  # 0: now
        self._stop, self._stops = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="kernelq-control", daemon=True)

    def start(self) -> None:
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._stops, selectors.EVENT_READ)
        self._thread.start()

    def stop(self, patience: float = 2.0) -> None:
        """End the thread; one that is in the midst of a long command is not waited for."""
        self._stop.close()
        self._thread.join(patience)

    # The loop.

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    break
            except Exception as found:
                self._say(log.ERROR, f"control socket: {type(found).__name__}: {found}")
                for client in list(self._clients.values()):
                    self._drop(client)
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.close()
        self._listener.close()
        self._stops.close()

    def _turn(self) -> bool:
        """Whatever is ready now; False: stop."""
        for key, _ in self._selector.select(self._seconds_to_wait()):
            if key.fileobj is self._stops:
                return False
            if key.fileobj is self._listener:
                self._accept()
            elif key.fd in self._clients:
                self._serve(self._clients[key.fd])
        now = time.monotonic()
        for client in list(self._clients.values()):
            if now >= client.progress_at + SILENCE_SECONDS_MAX:
                self._drop(client)
        if self._accept_at and now >= self._accept_at:
            self._accept_at = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)
        return True

    def _seconds_to_wait(self) -> float | None:
        times = [client.progress_at + SILENCE_SECONDS_MAX for client in self._clients.values()]
        times += [self._accept_at] if self._accept_at else []
        return max(0.0, min(times) - time.monotonic()) if times else None

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
        if len(self._clients) >= CLIENTS_MAX:
            self._drop(min(self._clients.values(), key=lambda client: client.progress_at))
        client = self._clients[sock.fileno()] = _Client(sock)
        self._selector.register(sock, selectors.EVENT_READ)
        if peer_user(sock) not in self._users:
            self._answer(client, _refusal("only the user that serves, and root, may ask"), True)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.socket.fileno()]
        self._selector.unregister(client.socket)
        client.socket.close()

    # A client.

    def _serve(self, client: _Client) -> None:
        try:
            if client.answer:
                self._send(client)
            else:
                self._receive(client)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(client)

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
            self._answer(client, _refusal(f"a line is longer than {LINE_BYTES_MAX} bytes"), True)
        elif end:
            client.received = rest
            self._answer(client, self._do(bytes(line)), False)

    def _answer(self, client: _Client, answer: Arguments, is_last: bool) -> None:
        client.answer = json.dumps(answer).encode("ascii") + b"\n"
        client.is_last = is_last
        self._selector.modify(client.socket, selectors.EVENT_WRITE)

    def _send(self, client: _Client) -> None:
        sent = client.socket.send(client.answer, socket.MSG_NOSIGNAL)
        client.progress_at = time.monotonic()
        client.answer = client.answer[sent:]
        if client.answer:
            return
        if client.is_last:
            self._drop(client)
            return
        self._selector.modify(client.socket, selectors.EVENT_READ)
        self._look_for_line(client)

    # A request.

    def _do(self, line: bytes) -> Arguments:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _refusal("that is no JSON")
        if not isinstance(request, dict) or not isinstance(request.get("do"), str):
            return _refusal('allowed is {"do": "...", ...}')
        command = self._commands.get(request.pop("do"))
        if command is None:
            return _refusal(f"allowed is {', '.join(sorted(self._commands))}")
        try:
            answer = command(request)
            return {"ok": True, **answer}
        except ValueError as found:
            return _refusal(str(found))
        except Exception as found:
            self._say(log.ERROR, f"control socket: {type(found).__name__}: {found}")
            return _refusal("the server failed; its log says more")


def _refusal(text: str) -> Arguments:
    return {"ok": False, "error": text}


def peer_user(sock: socket.socket) -> int:
    """Who connected: the user id that the kernel noted then."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(data)
    return int(user)
