"""Responses beyond the simple ones: files, windows, clients that leave, a ring that is full."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_core import RECORDS, answering, served

from kernelq._worker import ClientGone


def sending(make: Any, headers: Any = (), block: int = 8192) -> Any:
    """An application that returns a file in the wrapper."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", list(headers))
        return environ["wsgi.file_wrapper"](make(), block)

    return application


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "file"
    found.write_bytes(bytes(range(256)) * 40)
    return found


def opened_at(path: Path, at: int, mode: str = "rb", **options: Any) -> Any:
    """The file, opened, and at a position."""
    file = open(path, mode, **options)
    file.seek(at)
    return file


@pytest.mark.parametrize("buffering", [-1, 0])
@pytest.mark.parametrize("at", [0, 5000])
def test_a_regular_file_goes_as_a_descriptor(path: Path, buffering: int, at: int) -> None:
    files: list[Any] = []

    def make() -> Any:
        files.append(opened_at(path, at, buffering=buffering))
        files[-1].read(7)  # a buffered reader has read on
        return files[-1]

    with served(sending(make)) as rig:
        dispatch = rig.hand()
        answer = rig.collect(dispatch)
        assert answer.kinds == ["HEAD", "FILE"]
        assert answer.length == 10240 - at - 7
        assert answer.file == (at + 7, 10240 - at - 7)
        whose, place, kind, fd = rig.core.receive_fd()
        assert (whose, place, kind) == (dispatch, 0, RECORDS["FILE"])
        assert os.pread(fd, 3, at + 7) == path.read_bytes()[at + 7 :][:3]
        os.close(fd)
    assert files[0].closed


@pytest.mark.parametrize(
    ("declared", "is_cut", "said"),
    [(100, False, "more"), (10240, False, ""), (20000, True, "bytes")],
)
def test_a_file_and_a_declared_length(
    path: Path, declared: int, is_cut: bool, said: str, capfd: Any
) -> None:
    app = sending(lambda: path.open("rb"), [("Content-Length", str(declared))])
    with served(app) as rig:
        answer = rig.ask()
        assert (answer.length, answer.file) == (declared, (0, min(declared, 10240)))
    assert said in capfd.readouterr().err


OTHERS: dict[str, Any] = {
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "GzipFile": lambda path: gzip.open(io.BytesIO(gzip.compress(path.read_bytes()))),
    "GzipFile of a file": lambda path: gzipped(path),
    "pipe": lambda path: piped(path.read_bytes()),
    "only read": lambda path: type("Only", (), {"read": io.BytesIO(path.read_bytes()).read})(),
    "subclass": lambda path: type("Sub", (io.FileIO,), {})(path),
}


def gzipped(path: Path) -> Any:
    """A file whose descriptor has other bytes than its read()."""
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return gzip.open(packed)


def piped(data: bytes) -> Any:
    """A pipe that holds data."""
    reading, writing = os.pipe()
    assert os.write(writing, data) == len(data)
    os.close(writing)
    return os.fdopen(reading, "rb")


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("block", [100, 8192])
def test_what_is_no_regular_file_is_read(path: Path, kind: str, block: int) -> None:
    with served(sending(lambda: OTHERS[kind](path), block=block)) as rig:
        answer = rig.ask()
        assert answer.content == path.read_bytes()
        assert answer.file is None


def test_temporary_files() -> None:
    def make() -> Any:
        file = tempfile.NamedTemporaryFile()
        file.write(b"0123456789")
        file.seek(3)
        return file

    with served(sending(make)) as rig:
        assert rig.ask().file == (3, 7)
        os.close(rig.core.receive_fd()[3])


@pytest.mark.parametrize("kind", ["file", "BytesIO"])
def test_an_empty_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty").touch()
    make = (tmp_path / "empty").open if kind == "file" else io.BytesIO
    app = sending(lambda: make("rb") if kind == "file" else make())
    with served(app) as rig:
        answer = rig.ask()
        assert (answer.length, answer.content, answer.kinds) == (0, b"", ["HEAD"])


def test_head_of_a_file_sends_no_file(path: Path) -> None:
    app = sending(lambda: path.open("rb"), [("Content-Length", "10240")])
    with served(app) as rig:
        answer = rig.ask(method="HEAD")
        assert (answer.length, answer.file, answer.is_cut) == (10240, None, False)
        assert rig.core.receive_fd() is None


def test_a_file_behind_written_content(path: Path) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])(b"first")
        return environ["wsgi.file_wrapper"](path.open("rb"))

    with served(application) as rig:
        answer = rig.ask()
        assert (answer.content, answer.file, answer.length) == (b"first", (0, 10240), -1)
        os.close(rig.core.receive_fd()[3])


def test_file_wrapper_without_start_response(path: Path, capfd: Any) -> None:
    with served(lambda e, s: e["wsgi.file_wrapper"](path.open("rb"))) as rig:
        assert rig.ask().status == 500


# -- windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["one", "blocks", "write"])
def test_no_more_than_the_window_is_sent_ahead(threads: int, kind: str) -> None:
    window = 10_000
    content = os.urandom(7 * window + 13)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", [])
        if kind == "write":
            write(content)
            return []
        return [content] if kind == "one" else iter([content[:99], content[99:]])

    with served(application, threads, response_window=window) as rig:
        rig.releases = False
        dispatch = rig.hand()
        answer = rig.answers[dispatch]
        released = 0
        while not answer.is_ended:
            record = rig.core.take()
            if record is not None:
                answer.add(record[0], record[1], record[4])
                assert len(answer.content) <= released + window
            elif len(answer.content) == released + window:
                # The worker waits now; a part of the window opens, which it must notice.
                released += 3000
                rig.tell("RELEASED", dispatch, value=released)
            else:
                record = rig.core.wait()
                answer.add(record[0], record[1], record[4])
        assert answer.content == content


@pytest.mark.parametrize("threads", [1, 2])
def test_other_requests_are_answered_while_one_waits_for_its_window(threads: int) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"x" * (5000 if environ["PATH_INFO"] == "/big" else 5)]

    with served(application, threads, prefetch=4, response_window=1000) as rig:
        rig.releases = False
        big = rig.hand(target="/big")
        rig.collect(big, until="HEAD")
        small = [rig.hand() for _ in range(3)]
        if threads > 1:
            for dispatch in small:
                assert rig.collect(dispatch).content == b"xxxxx"
        rig.releases = True
        rig.tell("RELEASED", big, value=1000)
        assert len(rig.collect(big).content) == 5000
        for dispatch in small:
            assert rig.collect(dispatch).content == b"xxxxx"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_client_that_leaves_ends_the_iteration(threads: int, capfd: Any) -> None:
    events: list[str] = []

    class Endless:
        def __iter__(self) -> Any:
            while True:
                yield b"x" * 700

        def close(self) -> None:
            events.append("closed")

    with served(answering(Endless()), threads, response_window=1000) as rig:
        rig.releases = False
        dispatch = rig.hand()
        rig.collect(dispatch, until="DATA")
        rig.tell("CLIENT_GONE", dispatch)
        answer = rig.collect(dispatch)
        assert answer.is_cut
        assert len(answer.content) == 1000
        rig.releases = True
    assert events == ["closed"]
    assert capfd.readouterr().err == ""


def test_write_to_a_client_that_has_left_raises(capfd: Any) -> None:
    seen: list[BaseException] = []
    go = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", [])
        if environ["PATH_INFO"] == "/other":
            return []
        write(b"a")
        go.wait()
        try:
            while True:
                write(b"b")
        except ClientGone as error:
            seen.append(error)
            raise

    with served(application, threads=2) as rig:
        rig.releases = False
        dispatch = rig.hand()
        rig.collect(dispatch, until="HEAD")
        rig.tell("CLIENT_GONE", dispatch)
        assert rig.ask(target="/other").status == 200
        go.set()
        assert rig.collect(dispatch).is_cut
    assert isinstance(seen[0], ConnectionError)
    assert capfd.readouterr().err == ""


def test_late_control_records_are_ignored() -> None:
    with served(answering()) as rig:
        first = rig.hand(place=0)
        rig.collect(first)
        rig.tell("CLIENT_GONE", first)
        rig.tell("RELEASED", first, value=5)
        rig.tell("CONTENT", first, data=b"late")
        second = rig.hand(place=0)
        rig.tell("CLIENT_GONE", first)
        assert rig.collect(second).content == b"ok"


def test_a_full_ring_is_waited_for() -> None:
    content = os.urandom(300_000)
    with served(answering([content]), ring_bytes=1 << 14) as rig:
        for blocks in (1, 2):
            dispatch = rig.hand()
            answer = rig.answers[dispatch]
            while not answer.is_ended:
                record = rig.core.take()
                if record:
                    answer.add(record[0], record[1], record[4])
            assert answer.content == content, blocks


def test_a_head_as_long_as_the_ring_admits() -> None:
    value = "v" * 4000
    with served(answering(b"x" * 4096, headers=[("X", value)]), ring_bytes=1 << 14) as rig:
        answer = rig.ask()
        assert (answer.fields, answer.content) == ([("X", value)], b"x" * 4096)


# -- wsgi.errors ---------------------------------------------------------------------------------


def test_errors_go_to_the_error_log_in_whole_lines(capfd: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        errors = environ["wsgi.errors"]
        print("one", 2, "three", file=errors)
        errors.writelines(["a\n", "b\n"])
        errors.write("held \u20ac\udc80")
        errors.flush()
        errors.write("rest")
        with pytest.raises(TypeError):
            errors.write(b"bytes")
        start_response("200 OK", [])
        return []

    with served(application) as rig:
        assert rig.ask().status == 200
    assert capfd.readouterr().err == "one 2 three\na\nb\nheld \u20ac\\udc80\nrest\n"
