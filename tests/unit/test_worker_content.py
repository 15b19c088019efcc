"""wsgi.input: where content comes from, and what happens when it does not come."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from fake_core import FLAG_CUT, FLAG_END, STREAMED, served

from kernelq._worker import ClientGone


def reading(read: Any) -> Any:
    """An application that answers what it has read in some way."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        data = read(environ["wsgi.input"])
        start_response("200 OK", [])
        return [data]

    return application


WAYS: dict[str, Any] = {
    "read": lambda f: f.read(),
    "read None": lambda f: f.read(None),
    "read -5": lambda f: f.read(-5),
    "read in pieces": lambda f: b"".join(iter(lambda: f.read(7), b"")),
    "read too much": lambda f: f.read(10**9) + f.read(1) + f.read(),
    "lines": lambda f: b"".join(f),
    "readline": lambda f: b"".join(iter(f.readline, b"")),
    "readline 3": lambda f: b"".join(iter(lambda: f.readline(3), b"")),
    "readlines": lambda f: b"".join(f.readlines()),
    "readinto": lambda f: read_into(f),
}
CONTENTS = [b"", b"x", b"one\ntwo\n\nthree", bytes(range(256)) * 700, b"\n" * 50]


def read_into(stream: Any) -> bytes:
    """Everything, by readinto()."""
    room = bytearray(100)
    data = b""
    while count := stream.readinto(room):
        data += room[:count]
    return data


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_inline(way: str, content: bytes) -> None:
    with served(reading(WAYS[way])) as rig:
        assert rig.ask(content=content).content == content


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_spilled(way: str, content: bytes, tmp_path: Path) -> None:
    with served(reading(WAYS[way])) as rig:
        for _ in range(2):
            dispatch = rig.hand_spilled(content, tmp_path / "spill")
            assert rig.collect(dispatch).content == content


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("content", CONTENTS, ids=len)
@pytest.mark.parametrize("threads", [1, 2])
def test_streamed(way: str, content: bytes, threads: int) -> None:
    with served(reading(WAYS[way]), threads=threads) as rig:
        dispatch = rig.hand(flags=STREAMED, content_length=-1)
        for at in range(0, len(content), 1000):
            rig.tell("CONTENT", dispatch, data=content[at : at + 1000])
        rig.tell("CONTENT", dispatch, flags=FLAG_END)
        assert rig.collect(dispatch).content == content


def test_streamed_with_a_known_length_needs_no_end() -> None:
    with served(reading(lambda f: f.read())) as rig:
        dispatch = rig.hand(flags=STREAMED, content_length=6)
        rig.tell("CONTENT", dispatch, data=b"abc")
        rig.tell("CONTENT", dispatch, data=b"def")
        assert rig.collect(dispatch).content == b"abcdef"


@pytest.mark.parametrize("threads", [1, 3])
def test_streamed_content_is_consumed_as_it_is_read(threads: int) -> None:
    window = 4096
    total = 40 * window
    with served(
        reading(lambda f: str(len(f.read())).encode()), threads, content_window=window
    ) as rig:
        dispatch = rig.hand(flags=STREAMED, content_length=total)
        answer = rig.answers[dispatch]
        sent = 0
        while sent < total:
            while sent < total and sent - answer.consumed + 1024 <= window:
                rig.tell("CONTENT", dispatch, data=b"x" * 1024)
                sent += 1024
            kind, flags, _, whose, rest = rig.core.wait()
            assert whose == dispatch
            answer.add(kind, flags, rest)
        assert rig.collect(dispatch).content == str(total).encode()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("read", ["read", "read 4", "readline", "readlines", "readinto"])
def test_content_that_breaks_off_is_an_error(threads: int, read: str, capfd: Any) -> None:
    seen: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        stream = environ["wsgi.input"]
        seen.append(stream.read(2))
        calls = {
            "read": stream.read,
            "read 4": lambda: stream.read(4),
            "readline": stream.readline,
            "readlines": stream.readlines,
            "readinto": lambda: stream.readinto(bytearray(4)),
        }
        with pytest.raises(ClientGone) as caught:
            calls[read]()
        assert isinstance(caught.value, OSError)
        seen.append("raised")
        raise caught.value

    with served(application, threads) as rig:
        dispatch = rig.hand(flags=STREAMED, content_length=100)
        rig.tell("CONTENT", dispatch, data=b"abcde")
        rig.tell("CONTENT", dispatch, flags=FLAG_CUT)
        answer = rig.collect(dispatch)
        assert answer.status == 500
    assert seen == [b"ab", "raised"]
    assert "Traceback" not in capfd.readouterr().err


def test_the_client_leaves_while_its_content_is_awaited() -> None:
    with served(reading(lambda f: f.read())) as rig:
        dispatch = rig.hand(flags=STREAMED, content_length=100)
        rig.tell("CONTENT", dispatch, data=b"abcde")
        rig.tell("CLIENT_GONE", dispatch)
        assert rig.collect(dispatch).status == 500


def test_a_spill_file_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    def read(stream: Any) -> bytes:
        with pytest.raises(ClientGone):
            stream.read()
        return b"refused"

    with served(reading(read)) as rig:
        dispatch = rig.hand_spilled(b"abcdef", tmp_path / "spill", content_length=7)
        assert rig.collect(dispatch).content == b"refused"


def test_content_is_closed_when_its_request_has_ended() -> None:
    kept: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        kept.append(environ["wsgi.input"])
        start_response("200 OK", [])
        return []

    with served(application) as rig:
        rig.ask(content=b"abc")
        for call in (kept[0].read, kept[0].readline, kept[0].readlines, kept[0].__next__):
            with pytest.raises(ValueError, match="ended"):
                call()


def test_no_content_is_empty_for_ever() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        stream = environ["wsgi.input"]
        assert stream.read() == stream.readline() == stream.read(5) == b""
        assert stream.readlines() == list(stream) == []
        start_response("200 OK", [])
        return [b"ok"]

    with served(application) as rig:
        assert [rig.ask().content for _ in range(3)] == [b"ok"] * 3


@pytest.mark.parametrize("size", ["5", 1.5, b"", object()])
def test_wrong_sizes(size: Any) -> None:
    def read(stream: Any) -> bytes:
        for call in (stream.read, stream.readline, stream.readlines):
            with pytest.raises(TypeError):
                getattr(io.BytesIO(b"abc"), call.__name__)(size)
            with pytest.raises(TypeError):
                call(size)
        assert not stream.read(0)
        assert not stream.readline(0)
        data: bytes = stream.read()
        return data

    with served(reading(read)) as rig:
        assert rig.ask(content=b"abc").content == b"abc"
