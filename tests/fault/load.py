"""Clients for the fault tests: persistent connections, strict about every byte, and a load of them
whose outcome is judged against the promises.
"""

import socket
import struct
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from fault_app import filler
from harness import PATIENCE


class Broken(Exception):
    """The server did what it must never do to a client: the text says what."""


class Cut(Broken):
    """A response in chunks that ended before its last one: its worker died while it wrote it."""


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    content: bytes
    seconds: float = 0.0

    @property
    def pid(self) -> int:
        return int(self.content.split(b" ", 1)[0])


@dataclass
class Request:
    number: int
    method: str = "GET"
    path: str = "/"
    content: bytes = field(default=b"", repr=False)
    host: str = "kernelq.test"

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.path}?n={self.number} HTTP/1.1", f"Host: {self.host}"]
        if self.content:
            lines.append(f"Content-Length: {len(self.content)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.content

    def check(self, answer: Answer) -> None:
        """A 200 must be this request's own, to the last byte."""
        if answer.status != 200:
            return
        told, _, rest = answer.content.partition(b"\n")
        crc = zlib.crc32(self.content)
        expected = f"{self.number} {self.method} {len(self.content)} {crc}".encode()
        if told.partition(b" ")[2] != expected or rest != filler(self.number):
            raise Broken(f"request {self.number} was answered with {answer.content[:80]!r}...")
        if answer.fields.get("x-number") != str(self.number):
            raise Broken(f"request {self.number} was answered with {answer.fields}")


class Client:
    """One persistent connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = b""
        self._last: Request | None = None

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Leaves at once, with RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *what: object) -> None:
        self.close()

    def ask(self, request: Request) -> Answer:
        began = time.monotonic()
        self.send(request)
        try:
            answer = self.read_answer()
        except Broken as found:
            what = f"{request.method} {request.path} {request.number} behind {self._last}"
            raise type(found)(f"{what}: {found}") from None
        self._last = request
        answer.seconds = time.monotonic() - began
        request.check(answer)
        return answer

    def send(self, *requests: Request) -> None:
        self.send_bytes(b"".join(request.encode() for request in requests))

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read_answer(self) -> Answer:
        """One final response. Broken: the connection ended, or what came is malformed."""
        head = self._read_until(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        version, status, _ = line.split(b" ", 2)
        if version != b"HTTP/1.1" or not status.isdigit() or len(status) != 3:
            raise Broken(f"no status line: {line!r}")
        fields: dict[str, str] = {}
        for one in lines:
            name, separator, value = one.partition(b": ")
            if not separator or name.lower().decode() in fields:
                raise Broken(f"no field line, or a second one: {one!r}")
            fields[name.lower().decode()] = value.decode()
        return Answer(int(status), fields, self._read_content(fields))

    def _read_content(self, fields: dict[str, str]) -> bytes:
        if "content-length" in fields:
            return self._read(int(fields["content-length"]))
        if fields.get("transfer-encoding") != "chunked":
            raise Broken(f"a response without framing: {fields}")
        content = b""
        while True:
            try:
                bytes_left = int(self._read_until(b"\r\n"), 16)
                chunk = self._read(bytes_left + 2)
            except Broken as found:
                raise Cut(f"{found}, in chunks") from None
            if not chunk.endswith(b"\r\n"):
                raise Broken("a chunk without its line end")
            content += chunk[:-2]
            if bytes_left == 0:
                return content

    def read_to_end(self) -> bytes:
        """What still comes until the server closes."""
        while data := self._socket.recv(65536):
            self._input += data
        data, self._input = self._input, b""
        return data

    def _read_until(self, end: bytes) -> bytes:
        while end not in self._input:
            self._receive()
        data, _, self._input = self._input.partition(end)
        return data

    def _read(self, count: int) -> bytes:
        while len(self._input) < count:
            self._receive(f" of {count} bytes of content")
        data, self._input = self._input[:count], self._input[count:]
        return data

    def _receive(self, of: str = " of a head") -> None:
        try:
            data = self._socket.recv(65536)
        except OSError as found:
            raise Broken(f"connection lost after {len(self._input)}{of}: {found!r}") from None
        if not data:
            raise Broken(f"connection closed after {len(self._input)}{of}")
        self._input += data


@dataclass
class Outcome:
    """What became of a load's requests."""

    requests: dict[int, Request] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)  # numbers of requests
    broken: list[str] = field(default_factory=list)

    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers.values())

    def failed(self) -> list[tuple[int, str, int]]:
        """(number, method, status) of each that was not answered 200."""
        return [
            (number, self.requests[number].method, answer.status)
            for number, answer in sorted(self.answers.items())
            if answer.status != 200
        ]

    @property
    def longest_wait(self) -> float:
        return max(answer.seconds for answer in self.answers.values())


def run_load(
    address: tuple[str, int],
    requests: Iterable[Request],
    clients: int = 16,
    on_answer: Callable[[int, Request, Answer], None] = lambda count, request, answer: None,
) -> Outcome:
    """Each client takes the next request when its last one is answered. `on_answer` is called with
    the count of answers so far, by one client at a time.
    """
    outcome = Outcome()
    left = iter(requests)
    lock = threading.Lock()

    def next_request() -> Request | None:
        with lock:
            request = next(left, None)
            if request is not None:
                outcome.requests[request.number] = request
            return request

    def serve_one_client() -> None:
        try:
            with Client(address) as client:
                while (request := next_request()) is not None:
                    answer = client.ask(request)
                    if answer.fields.get("connection") == "close":
                        raise Broken(f"closes behind {request}: {answer.status}")
                    with lock:
                        outcome.answers[request.number] = answer
                        on_answer(len(outcome.answers), request, answer)
        except Exception as found:
            outcome.broken.append(repr(found))

    threads = [threading.Thread(target=serve_one_client, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * PATIENCE)
        assert not thread.is_alive(), "a client still waits"
    return outcome


def read_executions(file: Path) -> dict[int, list[int]]:
    """By request: the pids of the workers that began to execute it, in order."""
    found: dict[int, list[int]] = defaultdict(list)
    for line in file.read_text().splitlines():
        pid, number, _ = line.split()
        found[int(number)].append(int(pid))
    return found


def mixed_requests(count: int, first: int = 0) -> Iterator[Request]:
    """GETs and POSTs, some with large content, some that answer in blocks or from a file."""
    paths = ("/sleep-4", "/sleep-2", "/", "/sleep-8", "/sleep-1/file")
    for number in range(first, first + count):
        path = paths[number % len(paths)]
        if number % 3 == 0:
            bytes_ = number * 7907 % 3000 + (200_000 if number % 60 == 0 else 1)
            yield Request(number, "POST", path, b"%d." % number * (bytes_ // 5 + 1))
        else:
            yield Request(number, "GET", path)


def judge(outcome: Outcome, executions: dict[int, list[int]], dead: Collection[int]) -> None:
    """Promise 2, request by request."""
    assert outcome.broken == []
    assert outcome.answers.keys() | outcome.cut == outcome.requests.keys()
    for number in outcome.cut:
        assert executions[number][-1] in dead, f"{outcome.requests[number]} was cut"
    for number in outcome.answers:
        request = outcome.requests[number]
        status = outcome.answers[number].status
        pids = executions.get(number, [])
        if request.method == "POST":
            assert len(pids) <= 1, f"POST {number} was executed {len(pids)} times"
            # 502: its worker died when it had been started, or was just about to.
            assert status == 200 or (status == 502 and set(pids) <= set(dead)), (number, status)
        else:
            assert status == 200, f"{request.method} {number} was answered {status}"
            assert len(pids) <= 3, f"{request.method} {number} was executed {len(pids)} times"
            assert set(pids[:-1]) <= set(dead), "executed again although its worker lived"
        if status == 200:
            assert pids[-1] == outcome.answers[number].pid
