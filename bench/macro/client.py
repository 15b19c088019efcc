"""A small strict HTTP/1.1 client: the validator beside the load generators.

It takes nothing on trust: status line, field lines, framing and every byte of the content.
"""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT = 10.0
LINE_MAX = 65536


class Malformed(Exception):
    """The server said something that is not the answer to the request."""


def request(target: str = "/", content: bytes = b"", fields: Sequence[str] = ()) -> bytes:
    lines = [*fields, f"Content-Length: {len(content)}"] if content else list(fields)
    method = "POST" if content else "GET"
    head = "".join(f"{line}\r\n" for line in ("Host: 127.0.0.1", *lines))
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + content


@dataclass(frozen=True)
class Response:
    status: int
    fields: dict[bytes, bytes]
    content: bytes
    size: int

    @property
    def closes(self) -> bool:
        return b"close" in self.fields.get(b"connection", b"").lower()


class Connection:
    def __init__(self, port: int, timeout: float = TIMEOUT) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""
        self.taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Closes without TIME_WAIT: ten thousand of those would take the ports of the next run."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def exchange(self, message: bytes, depth: int = 1) -> list[Response]:
        """Sends the message `depth` times in one go and reads as many responses."""
        self.socket.sendall(message * depth)
        return [self.response() for _ in range(depth)]

    def is_silent(self) -> bool:
        """Whether nothing came behind the last response, not even the end."""
        timeout = self.socket.gettimeout()
        self.socket.setblocking(False)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self.unread
        finally:
            self.socket.settimeout(timeout)
        return False

    def answers(self, deadline: float) -> bool:
        """Whether a response of status 200 comes in time."""
        try:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            return self.response().status == 200
        except (OSError, Malformed):
            return False

    def skip(self, count: int, content: bytes) -> None:
        """Reads so many responses that end with this content, and looks at nothing else."""
        end = b"\r\n\r\n" + content
        while count > 0:
            found = self.unread.count(end)
            if found:
                count -= found
                self.unread = self.unread[self.unread.rindex(end) + len(end) :]
            if count > 0:
                self._receive()
        if count or self.unread:
            raise Malformed("more responses than requests")

    def response(self) -> Response:
        self.taken = 0
        version, _, rest = self._line().partition(b" ")
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
            raise Malformed(f"status line {version + b' ' + rest!r}")
        fields: dict[bytes, bytes] = {}
        while line := self._line():
            name, colon, value = line.partition(b":")
            if not colon or name != name.strip() or not name:
                raise Malformed(f"field line {line!r}")
            if name.lower() in fields and name.lower() in (b"content-length", b"date"):
                raise Malformed(f"{name!r} twice")
            fields[name.lower()] = value.strip()
        content = b"" if rest[:3] == b"304" else self._content(fields)
        return Response(int(rest[:3]), fields, content, self.taken)

    def _content(self, fields: dict[bytes, bytes]) -> bytes:
        if b"transfer-encoding" in fields:
            if fields[b"transfer-encoding"].lower() != b"chunked" or b"content-length" in fields:
                raise Malformed("framing")
            return b"".join(iter(self._chunk, b""))
        length = fields.get(b"content-length", b"")
        if not length.isdigit():
            raise Malformed(f"Content-Length {length!r}")
        return self._take(int(length))

    def _chunk(self) -> bytes:
        chunk = self._take(int(self._line().partition(b";")[0], 16))
        if self._line():
            raise Malformed("chunk without its end")
        return chunk

    def _line(self) -> bytes:
        while b"\r\n" not in self.unread:
            if len(self.unread) > LINE_MAX:
                raise Malformed("endless line")
            self._receive()
        line = self._take(self.unread.index(b"\r\n"))
        self._take(2)
        return line

    def _take(self, count: int) -> bytes:
        while len(self.unread) < count:
            self._receive()
        taken, self.unread = self.unread[:count], self.unread[count:]
        self.taken += count
        return taken

    def _receive(self) -> None:
        data = self.socket.recv(262144)
        if not data:
            raise ConnectionResetError("closed by the server before the response was complete")
        self.unread += data


class IdleConnections:
    """Many persistent connections; each has had one answer and then keeps silent."""

    BATCH = 64  # asked together: fewer than any server's backlog
    PATIENCE = 90.0  # seconds for all of them together; servers keep them for 120

    def __init__(self, port: int, count: int) -> None:
        self.connections: list[Connection] = []
        try:
            while left := count - len(self.connections):
                batch = [Connection(port) for _ in range(min(self.BATCH, left))]
                self.connections += batch
                if self._unanswered(batch, time.monotonic() + TIMEOUT):
                    raise Malformed(f"connection {len(self.connections)} had no answer")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        for connection in self.connections:
            connection.reset()

    def lost(self) -> int:
        """How many do not answer any more."""
        deadline = time.monotonic() + self.PATIENCE
        return sum(
            self._unanswered(self.connections[first : first + self.BATCH], deadline)
            for first in range(0, len(self.connections), self.BATCH)
        )

    @staticmethod
    def _unanswered(batch: list[Connection], deadline: float) -> int:
        for connection in batch:
            with suppress(OSError):
                connection.socket.sendall(request())
        return sum(not connection.answers(deadline) for connection in batch)
