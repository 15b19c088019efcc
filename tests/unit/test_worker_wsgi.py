"""What an application may do, by PEP 3333, and what comes out of it."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pytest
from fake_core import answering, served

CUT = "the application sent"


def test_hello() -> None:
    with served(answering(b"Hello, world!", headers=[("Content-Type", "text/plain")])) as rig:
        answer = rig.ask()
        assert (answer.status, answer.reason) == (200, "OK")
        assert answer.fields == [("Content-Type", "text/plain")]
        assert answer.content == b"Hello, world!"
        assert answer.length == 13
        assert answer.kinds == ["HEAD"]


def test_many_requests_one_after_the_other() -> None:
    with served(lambda e, s: answering(e["PATH_INFO"].encode())(e, s)) as rig:
        for number in range(50):
            assert rig.ask(target=f"/{number}").content == f"/{number}".encode()


@pytest.mark.parametrize("kind", [list, tuple])
def test_blocks_of_a_sequence_are_one_content(kind: Any) -> None:
    with served(answering(kind([b"a", b"", b"bc"]))) as rig:
        answer = rig.ask()
        assert (answer.content, answer.length, answer.kinds) == (b"abc", 3, ["HEAD"])


def test_nothing_at_all() -> None:
    with served(answering([])) as rig:
        answer = rig.ask()
        assert (answer.content, answer.length, answer.kinds) == (b"", 0, ["HEAD"])


def test_declared_length_travels_as_a_number() -> None:
    with served(answering(b"abc", headers=[("content-LENGTH", "3"), ("X-A", "b")])) as rig:
        answer = rig.ask()
        assert (answer.length, answer.fields) == (3, [("X-A", "b")])


def test_each_block_is_passed_on_before_the_next_is_asked_for() -> None:

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b""
        assert answer.kinds == []
        for number in range(3):
            yield b"%d" % number
            # This runs when the worker asks for the next block.
            assert rig.core.take() is not None

    answer = type("None_", (), {"kinds": []})()
    with served(application) as rig:
        dispatch = rig.hand()
        rig.answers[dispatch].status = 200
        answer = rig.collect(dispatch)
        assert (answer.kinds, answer.is_cut) == (["END"], False)


def test_empty_blocks_do_not_send_the_head() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-First", "1")])
        yield b""
        yield b""
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oh", [("X-Second", "2")], sys.exc_info())
        yield b"x"

    with served(application) as rig:
        answer = rig.ask()
        assert (answer.status, answer.fields, answer.content) == (500, [("X-Second", "2")], b"x")


def test_start_response_may_come_with_the_first_block() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        class Late:
            def __iter__(self) -> Any:
                start_response("201 Created", [])
                return iter([b"late"])

        return Late()

    with served(application) as rig:
        answer = rig.ask()
        assert (answer.status, answer.content) == (201, b"late")


def test_len_1_means_a_known_length() -> None:
    class One:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Any:
            return iter([b"12345"])

    with served(answering(One())) as rig:
        answer = rig.ask()
        assert (answer.length, answer.content) == (5, b"12345")


def test_a_len_that_raises_is_no_len() -> None:
    class Odd:
        def __len__(self) -> int:
            raise NotImplementedError

        def __iter__(self) -> Any:
            return iter([b"12345"])

    with served(answering(Odd())) as rig:
        answer = rig.ask()
        assert (answer.length, answer.content) == (-1, b"12345")


def test_write() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        write(b"one ")
        write(b"")
        write(b"two ")
        return [b"three"]

    with served(application) as rig:
        answer = rig.ask()
        assert answer.content == b"one two three"
        assert answer.kinds == ["HEAD", "DATA", "DATA"]


def test_write_sends_at_once() -> None:

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])(b"now")
        assert rig.core.take()[4][4] == b"now"
        return []

    with served(application) as rig:
        dispatch = rig.hand()
        rig.answers[dispatch].status = 200
        assert rig.collect(dispatch).kinds == ["END"]


class Closing:
    """An iterable that notes what happens to it."""

    def __init__(self, blocks: Any, events: list[str]) -> None:
        self.blocks = blocks
        self.events = events

    def __iter__(self) -> Any:
        for block in self.blocks:
            if isinstance(block, Exception):
                raise block
            yield block
        self.events.append("exhausted")

    def close(self) -> None:
        self.events.append("closed")


def test_close_is_called() -> None:
    events: list[str] = []
    with served(answering(Closing([b"a", b"b"], events))) as rig:
        assert rig.ask().content == b"ab"
    assert events == ["exhausted", "closed"]


def test_close_is_called_after_an_error(capfd: Any) -> None:
    events: list[str] = []
    with served(answering(Closing([b"a", ValueError("x")], events))) as rig:
        answer = rig.ask()
        assert (answer.content, answer.is_cut) == (b"a", True)
    assert events == ["closed"]
    assert "ValueError: x" in capfd.readouterr().err


def test_close_that_fails_changes_no_response(capfd: Any) -> None:
    class Bad:
        def __iter__(self) -> Any:
            return iter([b"whole"])

        def close(self) -> None:
            raise OSError("cannot close")

    with served(answering(Bad())) as rig:
        answer = rig.ask()
        assert (answer.content, answer.is_cut) == (b"whole", False)
    assert "cannot close" in capfd.readouterr().err


def test_the_end_comes_after_close() -> None:
    kinds: list[str] = []

    class Late:
        def __iter__(self) -> Any:
            return iter([b"x"])

        def close(self) -> None:
            kinds.append(rig.core.take()[0])
            assert rig.core.take() is None

    with served(answering(Late())) as rig:
        dispatch = rig.hand()
        rig.answers[dispatch].status = 200
        assert rig.collect(dispatch).kinds == ["END"]
    assert kinds == ["HEAD"]


# -- content length ------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [[b"12345", b"678"], iter([b"12345", b"678"])])
def test_more_content_than_declared_is_cut(blocks: Any, capfd: Any) -> None:
    with served(answering(blocks, headers=[("Content-Length", "6")])) as rig:
        answer = rig.ask(target="/long")
        assert (answer.content, answer.length, answer.is_cut) == (b"123456", 6, False)
    line = r'Z warning the application sent more .* client 192\.0\.2\.1 "GET /long" worker \d+\n'
    assert len(re.findall(line, capfd.readouterr().err)) == 1


@pytest.mark.parametrize("blocks", [[b"1", b"2"], iter([b"1", b"2"]), [], iter([])])
def test_less_content_than_declared_is_a_visible_abort(blocks: Any, capfd: Any) -> None:
    with served(answering(blocks, headers=[("Content-Length", "6")])) as rig:
        answer = rig.ask()
        assert (answer.length, answer.is_cut) == (6, True)
        assert answer.content in (b"12", b"")
    assert capfd.readouterr().err.count(CUT) == 1


def test_write_beyond_the_declared_length(capfd: Any) -> None:
    def application(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Length", "2")])
        for _ in range(4):
            write(b"x")
        return [b"y"]

    with served(application) as rig:
        answer = rig.ask()
        assert (answer.content, answer.is_cut) == (b"xx", False)
    assert capfd.readouterr().err.count(CUT) == 1


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_statuses_without_content(status: str) -> None:
    with served(answering(b"never sent", status=status)) as rig:
        answer = rig.ask()
        assert (answer.content, answer.is_cut, answer.kinds) == (b"", False, ["HEAD"])


@pytest.mark.parametrize("blocks", [[b"12345"], iter([b"12", b"345"]), [], iter([]), [b"", b""]])
def test_head(blocks: Any) -> None:
    with served(answering(blocks, headers=[("Content-Length", "5")])) as rig:
        answer = rig.ask(method="HEAD")
        assert (answer.length, answer.content, answer.is_cut) == (5, b"", False)


def test_head_without_a_declared_length_claims_none() -> None:
    with served(answering(b"")) as rig:
        assert rig.ask(method="HEAD").length == -1


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), MemoryError(), GeneratorExit()]
)
def test_an_exception_is_a_500_and_the_worker_lives_on(error: BaseException, capfd: Any) -> None:
    def application(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/bad":
            raise error
        return answering()(environ, start_response)

    with served(application) as rig:
        answer = rig.ask(target="/bad", remote="198.51.100.7")
        assert (answer.status, answer.reason) == (500, "Internal Server Error")
        assert answer.content == b"Internal Server Error\n"
        assert rig.ask().content == b"ok"
    text = capfd.readouterr().err
    line = 'Z error the application failed client 198.51.100.7 "GET /bad" worker '
    assert f"{line}{os.getpid()}\n" in text
    assert type(error).__name__ in text
    assert "Traceback" in text
    assert ".pxi" not in text


def test_an_exception_after_the_head_cuts_the_response(capfd: Any) -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"some"
        raise ValueError("late")

    with served(application) as rig:
        answer = rig.ask()
        assert (answer.status, answer.content, answer.is_cut) == (200, b"some", True)
    assert "late" in capfd.readouterr().err


def test_an_exception_before_any_content_replaces_the_response(capfd: Any) -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "1000"), ("X-Secret", "x")])
        yield b""
        raise ValueError("early")

    with served(application) as rig:
        answer = rig.ask()
        assert (answer.status, answer.length) == (500, 22)
        assert answer.fields == [("Content-Type", "text/plain; charset=utf-8")]
    assert "early" in capfd.readouterr().err


def test_a_500_to_head_has_no_content(capfd: Any) -> None:
    with served(lambda e, s: 1 / 0) as rig:
        assert rig.ask(method="HEAD").content == b""


def start_and(call: Any) -> Any:
    """An application that calls start_response in some way and then answers."""

    def application(environ: Any, start_response: Any) -> Any:
        call(start_response)
        return [b"x"]

    return application


GOOD = ("200 OK", [("A", "b")])
WRONG: dict[str, Any] = {
    "no start_response": lambda s: None,
    "bytes status": lambda s: s(b"200 OK", []),
    "int status": lambda s: s(200, []),
    "no reason": lambda s: s("200", []),
    "no space": lambda s: s("200-OK", []),
    "two digits": lambda s: s("20 OK", []),
    "not digits": lambda s: s("2x0 OK", []),
    "status 099": lambda s: s("099 OK", []),
    "interim": lambda s: s("100 Continue", []),
    "upgrade": lambda s: s("101 Switching Protocols", []),
    "line end in the reason": lambda s: s("200 O\r\nK: x", []),
    "reason beyond latin-1": lambda s: s("200 \u20ac", []),
    "headers are a tuple": lambda s: s("200 OK", ()),
    "headers are a dict": lambda s: s("200 OK", {"a": "b"}),
    "header is a list": lambda s: s("200 OK", [["a", "b"]]),
    "header of three": lambda s: s("200 OK", [("a", "b", "c")]),
    "bytes name": lambda s: s("200 OK", [(b"a", "b")]),
    "bytes value": lambda s: s("200 OK", [("a", b"b")]),
    "int value": lambda s: s("200 OK", [("a", 1)]),
    "empty name": lambda s: s("200 OK", [("", "b")]),
    "colon in the name": lambda s: s("200 OK", [("a:", "b")]),
    "space in the name": lambda s: s("200 OK", [("a b", "b")]),
    "line end in the name": lambda s: s("200 OK", [("a\n", "b")]),
    "high character in the name": lambda s: s("200 OK", [("\xe4", "b")]),
    "value beyond latin-1": lambda s: s("200 OK", [("a", "\u20ac")]),
    "line end in the value": lambda s: s("200 OK", [("a", "b\r\nSet-Cookie: c")]),
    "line feed in the value": lambda s: s("200 OK", [("a", "b\nc")]),
    "NUL in the value": lambda s: s("200 OK", [("a", "b\0")]),
    "delete in the value": lambda s: s("200 OK", [("a", "b\x7f")]),
    "connection": lambda s: s("200 OK", [("Connection", "close")]),
    "keep-alive": lambda s: s("200 OK", [("keep-alive", "timeout=5")]),
    "transfer-encoding": lambda s: s("200 OK", [("TRANSFER-ENCODING", "chunked")]),
    "upgrade field": lambda s: s("200 OK", [("Upgrade", "websocket")]),
    "te": lambda s: s("200 OK", [("TE", "trailers")]),
    "trailer": lambda s: s("200 OK", [("Trailer", "X")]),
    "proxy-authenticate": lambda s: s("200 OK", [("Proxy-Authenticate", "Basic")]),
    "length is no number": lambda s: s("200 OK", [("Content-Length", "x")]),
    "length with a sign": lambda s: s("200 OK", [("Content-Length", "+1")]),
    "length with a space": lambda s: s("200 OK", [("Content-Length", " 1")]),
    "length is empty": lambda s: s("200 OK", [("Content-Length", "")]),
    "length is huge": lambda s: s("200 OK", [("Content-Length", "9" * 19)]),
    "two lengths": lambda s: s("200 OK", [("Content-Length", "1"), ("Content-Length", "2")]),
    "too many headers": lambda s: s("200 OK", [("a", "b")] * 257),
    "too long headers": lambda s: s("200 OK", [("a", "b" * 40000), ("c", "d" * 40000)]),
    "called twice": lambda s: (s(*GOOD), s(*GOOD)),
    "bad exc_info": lambda s: (s(*GOOD), s("x", [], (ValueError, ValueError(), None))),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_pep_3333_forbids_is_an_error(name: str, capfd: Any) -> None:
    with served(start_and(WRONG[name])) as rig:
        answer = rig.ask()
        assert (answer.status, answer.kinds) == (500, ["HEAD"])
        assert all("b" not in value for _, value in answer.fields)
    assert capfd.readouterr().err.count("the application failed") == 1


@pytest.mark.parametrize("block", ["text", None, 1, bytearray(b"x"), memoryview(b"x")])
@pytest.mark.parametrize("kind", [lambda b: [b], lambda b: iter([b]), lambda b: [b"", b]])
def test_content_must_be_bytes(block: Any, kind: Any, capfd: Any) -> None:
    with served(answering(kind(block))) as rig:
        assert rig.ask().status == 500
    assert "TypeError" in capfd.readouterr().err


def test_a_result_must_be_iterable(capfd: Any) -> None:
    with served(answering(7)) as rig:
        assert rig.ask().status == 500
    assert "TypeError" in capfd.readouterr().err


FINE: dict[str, Any] = {
    "no headers": ("200 OK", []),
    "empty reason": ("200 ", []),
    "strange status": ("999 Own", []),
    "repeated": ("200 OK", [("Set-Cookie", "a=b"), ("Set-Cookie", "c=d")]),
    "empty value": ("200 OK", [("X", "")]),
    "latin-1 value": ("200 OK", [("X", "\xe4\xff")]),
    "tab in the value": ("200 OK", [("X", "a\tb")]),
    "latin-1 reason": ("200 \xe4", []),
    "own date and server": ("200 OK", [("Date", "x"), ("Server", "y")]),
    "long": ("200 OK", [("X", "y" * 30000)]),
    "looks like ours": (
        "200 OK",
        [("Content-Typo-Len", "1"), ("Tea", "x"), ("Content-Lengtx", "y")],
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_what_pep_3333_allows(name: str) -> None:
    status, headers = FINE[name]
    with served(answering(status=status, headers=headers)) as rig:
        answer = rig.ask()
        assert answer.status == int(status[:3])
        assert (answer.reason, answer.fields) == (status[4:], headers)


def test_equal_lengths_are_one() -> None:
    headers = [("Content-Length", "2"), ("Content-Length", "2")]
    with served(answering(headers=headers)) as rig:
        assert rig.ask().length == 2


def test_exc_info_after_the_head_is_raised(capfd: Any) -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"x"
        try:
            raise LookupError("the cause")
        except LookupError:
            start_response("500 Oh", [], sys.exc_info())

    with served(application) as rig:
        answer = rig.ask()
        assert (answer.status, answer.content, answer.is_cut) == (200, b"x", True)
    assert "LookupError: the cause" in capfd.readouterr().err


def test_start_response_after_its_request_has_ended(capfd: Any) -> None:
    kept: list[Any] = []

    def application(environ: Any, start_response: Any) -> Any:
        kept.append((start_response, start_response("200 OK", [])))
        return [b"x"]

    with served(application) as rig:
        rig.ask()
        old_start, old_write = kept[0]
        with pytest.raises(AssertionError, match="ended"):
            old_start("200 OK", [])
        with pytest.raises(AssertionError, match="ended"):
            old_write(b"x")
        rig.ask()
        with pytest.raises(AssertionError, match="ended"):
            old_write(b"x")
        assert kept[0][0] is not kept[1][0]


def test_write_before_start_response(capfd: Any) -> None:
    kept: list[Any] = []

    def application(environ: Any, start_response: Any) -> Any:
        if not kept:
            kept.append(start_response("200 OK", []))
            return [b"x"]
        kept[0](b"y")
        return [b""]

    with served(application) as rig:
        rig.ask()
        assert rig.ask().status == 500


def test_big_content_goes_in_pieces() -> None:
    content = bytes(range(256)) * 4000
    for blocks in ([content], iter([content]), [content[:7], content[7:]]):
        with served(answering(blocks), response_window=100_000) as rig:
            answer = rig.ask()
            assert answer.content == content
            assert not answer.is_cut
            assert answer.kinds[0] == "HEAD"
            assert answer.kinds.count("DATA") >= len(content) // 65536 - 1
