"""Clients that are strict about every byte, and remember how each of their requests ended."""

import contextlib
import random
import socket
import threading

from hostile_honest import answer

PATIENCE = 60.0  # seconds without a byte after which a client takes its server for hung
KINDS = ("plain", "plain", "blocks", "file")


class Violation(AssertionError):
    """Bytes that no HTTP server may send, whatever its workers do."""


class Lost(Exception):
    """The connection ended before the response did."""


class Connection:
    """One persistent connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.rest = b""
        self.before = "nothing"

    def more(self) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionError as error:
            raise Lost from error
        if not data:
            raise Lost
        self.rest += data

    def line(self) -> bytes:
        while b"\n" not in self.rest:
            self.more()
        line, _, self.rest = self.rest.partition(b"\n")
        if not line.endswith(b"\r") or b"\r" in line[:-1] or b"\0" in line:
            raise Violation(f"a line with a stray byte: {line!r}")
        return line[:-1]

    def take(self, count: int) -> bytes:
        pieces, missing = [self.rest], count - len(self.rest)
        while missing > 0:
            self.rest = b""
            self.more()
            pieces.append(self.rest)
            missing -= len(self.rest)
        data = b"".join(pieces)
        self.rest = data[count:]
        return data[:count]

    def response(self) -> tuple[int, bytes, bool]:
        """Status, content, and whether the connection is kept."""
        line = self.line()
        if not line.startswith(b"HTTP/1.1 ") or not line[9:12].isdigit():
            raise Violation(f"no status line: {line!r}")
        status = int(line[9:12])
        fields = self.fields()
        if status == 100:
            return self.response()
        is_kept = fields.get(b"connection", b"").lower() != b"close"
        if status in (204, 304):
            return status, b"", is_kept
        if b"transfer-encoding" in fields:
            return status, self.chunks(), is_kept
        if b"content-length" not in fields:
            raise Violation(f"a response to HTTP/1.1 without a length: {fields}")
        return status, self.take(int(fields[b"content-length"])), is_kept

    def fields(self) -> dict[bytes, bytes]:
        fields: dict[bytes, bytes] = {}
        while line := self.line():
            name, colon, value = line.partition(b":")
            if not colon or name.lower() == b"x-split":
                raise Violation(f"a split head: {line!r}")
            fields[name.lower()] = value.strip()
        return fields

    def chunks(self) -> bytes:
        content = b""
        while count := int(self.line(), 16):
            content += self.take(count)
            if self.take(2) != b"\r\n":
                raise Violation("a chunk without its end")
        if self.line():
            raise Violation("a trailer that nobody sent")
        return content


class Load:
    """Some clients, each in a thread; outcomes by request target.

    until_closed: a client whose connection is closed does not come again.
    """

    def __init__(
        self, port: int, key: bytes, clients: int, seed: int, until_closed: bool = False
    ) -> None:
        self.port = port
        self.key = key
        self.outcomes: dict[str, str] = {}
        self.problems: list[str] = []
        self.until_closed = until_closed
        self._changed = threading.Condition()
        self._stops = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(index, seed * 1000 + index), daemon=True)
            for index in range(clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every client finish its request; raise what went wrong."""
        self._stops.set()
        for thread in self._threads:
            thread.join(PATIENCE * 2)
            if thread.is_alive():
                self.problems.append("a client hangs")

    def count(self, outcome: str) -> int:
        return sum(found == outcome for found in list(self.outcomes.values()))

    def wait_for(self, count: int) -> None:
        """Until so many requests have ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.outcomes) >= count, PATIENCE)

    def _run(self, index: int, seed: int) -> None:
        chooses = random.Random(seed)
        number = index
        connection = None
        try:
            while not self._stops.is_set():
                number += len(self._threads)
                target = f"/{chooses.choice(KINDS)}/{number}"
                size = chooses.choice((0, 0, 0, 300, 300, 100_000))
                connection = self.request(connection, target, chooses.randbytes(size))
                with self._changed:
                    self._changed.notify_all()
                if connection is None and self.until_closed:
                    return
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")
        finally:
            if connection is not None:
                connection.socket.close()

    def request(
        self, connection: Connection | None, target: str, content: bytes
    ) -> Connection | None:
        connection = connection or Connection(self.port)
        try:
            self._send(connection, target, content)
            status, body, is_kept = connection.response()
        except Lost:
            self.outcomes[target] = f"lost after {connection.before}"
            connection.socket.close()
            return None
        self.outcomes[target] = self.judge(target, content, status, body)
        if is_kept:
            connection.before = f"{target} {self.outcomes[target]}"
            return connection
        connection.socket.close()
        return None

    def judge(self, target: str, content: bytes, status: int, body: bytes) -> str:
        if body == answer(self.key, target, content) and status == 200:
            return "honest"
        if b"honest" in body:
            raise Violation(f"{target} was answered with another's content: {body[:200]!r}")
        if b"hostile" in body or status < 500:
            return "hostile"
        return f"refused {status}"

    def _send(self, connection: Connection, target: str, content: bytes) -> None:
        method = "POST" if content else "GET"
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n"
        if content:
            head += f"Content-Length: {len(content)}\r\n"
        # A server that answers early and closes may refuse the rest; its answer is read even so.
        with contextlib.suppress(ConnectionError):
            connection.socket.sendall(f"{head}\r\n".encode() + content)
