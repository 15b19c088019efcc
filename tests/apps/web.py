"""The application most end-to-end tests talk to: what it does stands in the path.

A gate is a unix socket on which the test listens: the application connects, says a word, and waits
until the test lets it go on. So the test knows where the application is, and nobody sleeps.
"""

import contextlib
import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

Environ = dict[str, Any]
Answer = Any
TEXT = [("Content-Type", "text/plain")]
JSON = [("Content-Type", "application/json")]


def gate(path: str, word: str = "in") -> None:
    """Tell the test where we are, and wait for it."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        link.sendall(word.encode())
        link.recv(1)


def tell(path: str, word: str) -> None:
    """Tell the test something that it waits for."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        link.sendall(word.encode())


def show(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """The environ."""
    seen = {key: value for key, value in environ.items() if isinstance(value, str | bool | tuple)}
    seen["keys"] = sorted(environ)
    seen["pid"] = os.getpid()
    start("200 OK", JSON)
    return [json.dumps(seen).encode()]


def digest(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """What the content is, read in pieces."""
    found = hashlib.sha256()
    count = 0
    size = int(query.get("piece", "65536"))
    error = ""
    try:
        while piece := environ["wsgi.input"].read(size):
            found.update(piece)
            count += len(piece)
    except OSError as cut:
        error = type(cut).__name__
        if "gate" in query:
            gate(query["gate"], f"{error} after {count}")
    start("200 OK", JSON)
    answer = {
        "bytes": count,
        "sha256": found.hexdigest(),
        "length": environ.get("CONTENT_LENGTH"),
        "coding": environ.get("HTTP_TRANSFER_ENCODING"),
        "error": error,
    }
    return [json.dumps(answer).encode()]


def echo(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """The content itself."""
    start("200 OK", TEXT)
    return [environ["wsgi.input"].read()]


def reads(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """What one method of wsgi.input gives, called until it gives nothing."""
    stream = environ["wsgi.input"]
    how, size = query["how"], int(query.get("size", "-1"))
    if how == "iter":
        found = list(stream)
    elif how == "readlines":
        found = stream.readlines(size)
    else:
        found = list(iter(lambda: getattr(stream, how)(size), b""))
    start("200 OK", JSON)
    return [json.dumps([part.decode("latin-1") for part in found]).encode()]


def eager(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """Tells each three bytes of content as soon as they are there."""
    content = b""
    while piece := environ["wsgi.input"].read(3):
        gate(query["gate"], piece.decode())
        content += piece
    start("200 OK", TEXT)
    return [content]


def upper(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """The content in capitals, as it comes."""
    start("200 OK", TEXT)
    return (piece.upper() for piece in iter(lambda: environ["wsgi.input"].read(3), b""))


def status(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """Any status, with or without content."""
    start(query["line"], [tuple(field) for field in json.loads(query.get("fields", "[]"))])
    return [query.get("content", "").encode()]


def fields(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """Any fields."""
    start("200 OK", [tuple(field) for field in json.loads(query["fields"])])
    return [query.get("content", "content").encode()]


def reflect(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """The fields that the content names."""
    start("200 OK", [tuple(field) for field in json.loads(environ["wsgi.input"].read())])
    return [b"content"]


def big(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """So many bytes, as one block."""
    start("200 OK", TEXT)
    return [b"0123456789abcdef" * (int(query["bytes"]) // 16)]


def stream(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """So many blocks of so many bytes, with or without a length."""
    count, size = int(query["blocks"]), int(query["bytes"])
    length = [("Content-Length", str(count * size))] if "length" in query else []
    start("200 OK", [*TEXT, *length])
    block = bytes(97 + number % 26 for number in range(size))
    return (block for _ in range(count))


def lies(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """A Content-Length that is not what is sent."""
    start("200 OK", [("Content-Length", query["says"])])
    content = b"x" * int(query["sends"])
    if query["how"] == "list":
        return [content]
    if query["how"] == "iterator":
        return iter([content[:1], content[1:]])
    raise ValueError(query["how"])


def writes(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """write(), then a returned block."""
    write = start("200 OK", TEXT)
    write(b"one ")
    write(b"two ")
    return [b"three"]


def file(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """A file by wsgi.file_wrapper."""
    opened = open(query["path"], "rb")  # - file_wrapper closes it
    opened.seek(int(query.get("from", "0")))
    length = [("Content-Length", query["says"])] if "says" in query else []
    start("200 OK", [*TEXT, *length])
    return environ["wsgi.file_wrapper"](opened, 8192)


def pieces(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """A file, read by the application."""
    opened = open(query["path"], "rb")

    def blocks() -> Iterator[bytes]:
        with opened:
            while block := opened.read(65536):
                yield block

    start("200 OK", [*TEXT, ("Content-Length", str(os.fstat(opened.fileno()).st_size))])
    return blocks()


class Failure(Exception):
    """What the application fails with."""


def fails(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """An exception at one of several places."""
    where = query["where"]
    if where == "call":
        raise Failure("in the call" + query.get("with", ""))
    if where == "exit":
        sys.exit(3)
    start("200 OK", TEXT)
    if where == "started":
        raise Failure("after start_response")
    if where == "nothing":
        return None

    def blocks() -> Iterator[Any]:
        if where == "first":
            raise Failure("before the first block")
        yield b"a block"
        if where == "text":
            yield "no bytes"
        raise Failure("after a block")

    return blocks()


def exc_info(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """start_response() called again with exc_info."""
    write = start("200 OK", TEXT)
    if "sent" in query:
        write(b"sent")
    try:
        raise Failure("a failure that is handled")
    except Failure:
        start("500 Handled", TEXT, sys.exc_info())
    return [b"handled"]


def waits(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """Says that it runs, and waits for the test."""
    gate(query["gate"])
    start("200 OK", TEXT)
    return [b"waited"]


class Closing:
    """An iterable whose close() is heard of."""

    def __init__(self, blocks: Iterator[bytes], path: str) -> None:
        self._blocks = blocks
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks

    def close(self) -> None:
        tell(self._path, "closed")


def steps(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """A block, a gate, a block, and close() heard of at another gate."""
    start("200 OK", TEXT)

    def blocks() -> Iterator[bytes]:
        yield b"first"
        gate(query["gate"])
        yield b"second"

    return Closing(blocks(), query["closed"]) if "closed" in query else blocks()


def endless(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """Blocks until the client has gone; close() is heard of."""
    start("200 OK", TEXT)

    def blocks() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    return Closing(blocks(), query["closed"])


def says(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """A line for wsgi.errors."""
    environ["wsgi.errors"].write(query["text"] + "\n")
    environ["wsgi.errors"].flush()
    start("200 OK", TEXT)
    return [b"said"]


def crash(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    """The worker dies, once (a file says whether it has)."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(query["once"], os.O_CREAT | os.O_EXCL))
        if "after" in query:
            start("200 OK", TEXT)(b"begun")
        os._exit(9)
    start("200 OK", TEXT)
    return [b"survived"]


def hello(environ: Environ, start: Answer, query: dict[str, str]) -> Answer:
    start("200 OK", TEXT)
    return [b"hello " + environ["QUERY_STRING"].encode("latin-1")]


PATHS: dict[str, Callable[[Environ, Answer, dict[str, str]], Answer]] = {
    f"/{function.__name__}": function
    for function in (
        show, digest, echo, reads, eager, upper, status, fields, reflect, big, stream, lies,
        writes, file, pieces, fails, exc_info, waits, steps, endless, says, crash, hello,
    )
}  # fmt: skip


def application(environ: Environ, start_response: Answer) -> Answer:
    query = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
    answer = PATHS.get(environ["PATH_INFO"], hello)
    if environ["PATH_INFO"] == "*" or "HTTP_X_SHOW" in environ:
        answer = show
    return answer(environ, start_response, query)
