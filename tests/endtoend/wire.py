"""An HTTP client that hides nothing: it sends the bytes it is given, and reads exactly one response
at a time, with every rule of framing checked.
"""

import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

PATIENCE_SECONDS = 30.0  # how long a test waits for what must come; never how long it does wait

_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ([\t\x20-\x7e\x80-\xff]*)\Z")
_FIELD_LINE = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): [\t ]*((?:[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*)?)\Z"
)
_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\Z")


class Ended(Exception):
    """The server closed before the response was complete; all that came of it is in `got`."""

    def __init__(self, got: bytes, was_reset: bool) -> None:
        super().__init__(f"{'reset' if was_reset else 'closed'} after {got[-200:]!r}")
        self.got = got
        self.was_reset = was_reset


@dataclass
class Response:
    """One response, as it was framed."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    content: bytes = b""
    framing: str = "none"  # none, length, chunked or close
    interim: list[int] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [value for found, value in self.fields if found.lower() == name.lower()]

    def one(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1, f"{name} stands there {len(values)} times"
        return values[0] if values else None

    @property
    def is_last(self) -> bool:
        return self.one("Connection") == "close"

    @property
    def text(self) -> str:
        return self.content.decode()


class Client:
    """One connection."""

    def __init__(self, address: tuple[str, int] | str, receive_bytes: int = 0) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        if not isinstance(address, str) and ":" in address[0]:
            family = socket.AF_INET6
        self.socket = socket.socket(family)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(PATIENCE_SECONDS)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        if family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.taken = bytearray()  # of the response under way
        self.has_ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Sending.

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def send_last(self, data: bytes) -> Self:
        """Send and half-close: the FIN comes with the last bytes."""
        self.socket.send(data, socket.MSG_MORE)
        return self.half_close()

    def get(self, target: str, *lines: str, method: str = "GET", version: str = "1.1") -> Self:
        """Send a request without content."""
        return self.send(request(method, target, *lines, version=version))

    def ask(self, target: str, *lines: str, method: str = "GET", content: bytes | None = None,
            version: str = "1.1") -> Response:  # fmt: skip
        """Send a request, whole, and read its response."""
        data = request(method, target, *lines, content=content, version=version)
        return self.send(data).response(method)

    def half_close(self) -> Self:
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close so that the server sees RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # Receiving.

    def response(self, method: str = "GET") -> Response:
        """Read one final response, and not a byte more of what follows it."""
        interim: list[int] = []
        self.taken.clear()
        while True:
            response = self._head()
            if response.status >= 200:
                break
            assert not response.fields, "an interim response of kernelq has no fields"
            interim.append(response.status)
        response.interim = interim
        self._check_fields(response)
        self._read_content(response, method)
        return response

    def response_within(self, seconds: float) -> Response | None:
        """The response, if one comes in this time."""
        self.socket.settimeout(seconds)
        try:
            return self.response()
        except TimeoutError:
            return None
        finally:
            self.socket.settimeout(PATIENCE_SECONDS)

    def head(self) -> Response:
        """Read the head of a response, and leave its content."""
        return self._head()

    def rest(self, count: int) -> bytes:
        """Read so many bytes of content that is framed by its length."""
        return self._take(count)

    def chunk(self) -> bytes:
        """Read one chunk, or the last, empty one."""
        size = int(self._line(), 16)
        data = self._take(size)
        assert self._take(2) == b"\r\n"
        return data

    def interim(self) -> int:
        """Read one interim response."""
        response = self._head()
        assert response.status < 200, response
        return response.status

    def ends(self) -> bool:
        """Wait for the server's FIN; nothing may come before it."""
        assert not self.buffer, bytes(self.buffer)
        more = self._receive()
        assert not more, bytes(self.buffer)
        return True

    def is_quiet(self) -> bool:
        """Nothing has come that was not read (what comes later is not waited for)."""
        self.socket.setblocking(False)
        try:
            return not self.buffer and not self.socket.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(PATIENCE_SECONDS)

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            raise Ended(bytes(self.taken + self.buffer), True) from None
        self.has_ended = not data
        self.buffer += data
        return bool(data)

    def _need(self, count: int) -> None:
        while len(self.buffer) < count:
            if not self._receive():
                raise Ended(bytes(self.taken + self.buffer), False)

    def _take(self, count: int) -> bytes:
        self._need(count)
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        self.taken += data
        return data

    def _line(self) -> bytes:
        while (end := self.buffer.find(b"\r\n")) < 0:
            if not self._receive():
                raise Ended(bytes(self.taken + self.buffer), False)
        line = self._take(end + 2)[:-2]
        assert not {0, 10, 13} & set(line), line
        return line

    def _head(self) -> Response:
        line = self._line()
        found = _STATUS_LINE.match(line)
        assert found, f"no status line: {line!r}"
        fields = []
        while line := self._line():
            named = _FIELD_LINE.match(line)
            assert named, f"no field line: {line!r}"
            fields.append((named[1].decode(), named[2].decode("latin-1")))
        return Response(int(found[1]), found[2].decode("latin-1"), fields)

    def _check_fields(self, response: Response) -> None:
        date = response.one("Date")
        assert date is not None
        assert _DATE.match(date) or "own" in date, date
        assert response.status == 304 or response.one("Server") is not None
        assert response.one("Transfer-Encoding") in (None, "chunked")
        if response.one("Transfer-Encoding"):
            assert response.one("Content-Length") is None
        if response.is_last:
            assert response.one("Keep-Alive") is None

    def _read_content(self, response: Response, method: str) -> None:
        length = response.one("Content-Length")
        if method == "HEAD" or response.status in (204, 304):
            return
        if response.one("Transfer-Encoding"):
            response.framing = "chunked"
            response.content = self._read_chunks()
        elif length is not None:
            assert re.fullmatch(r"0|[1-9]\d*", length), length
            response.framing = "length"
            response.content = self._take(int(length))
        else:
            assert response.is_last, "content until the close needs Connection: close"
            response.framing = "close"
            while self._receive():
                pass
            response.content = self._take(len(self.buffer))

    def _read_chunks(self) -> bytes:
        content = bytearray()
        while True:
            line = self._line()
            assert re.fullmatch(rb"[0-9a-f]{1,16}", line), line
            size = int(line, 16)
            if size == 0:
                assert self._line() == b"", "a trailer"
                return bytes(content)
            content += self._take(size)
            assert self._take(2) == b"\r\n"


def request(
    method: str,
    target: str,
    *lines: str,
    content: bytes | None = None,
    version: str = "1.1",
    host: str = "test",
) -> bytes:
    """The bytes of a request; content is counted unless a line says something else."""
    head = [f"{method} {target} HTTP/{version}"]
    if host:
        head.append(f"Host: {host}")
    head += lines
    if content is not None and not _has_framing(lines):
        head.append(f"Content-Length: {len(content)}")
    return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + (content or b"")


def chunked(*pieces: bytes, trailers: Sequence[str] = ()) -> bytes:
    """Chunked content of these pieces."""
    parts = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    lines = "".join(f"{line}\r\n" for line in trailers)
    return b"".join(parts) + b"0\r\n" + lines.encode("latin-1") + b"\r\n"


def _has_framing(lines: Sequence[str]) -> bool:
    return any(line.lower().startswith(("content-length:", "transfer-encoding:")) for line in lines)
