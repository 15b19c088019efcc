"""Request heads: what the corpus cannot say about limits, progress and refusals."""

from __future__ import annotations

import pytest
from http1_cases import MORE, check_head, parse_head

from kernelq import _coretest

START = b"GET /path HTTP/1.1\r\nHost: a\r\n"


def test_empty_lines_start_no_request() -> None:
    parser = _coretest.HeadParser()
    for data in (b"", b"\r", b"\r\n", b"\r\n\r\n"):
        assert parser.parse(data) == (MORE, None)
        assert not parser.is_started
    assert parser.parse(b"\r\n\r\nG") == (MORE, None)
    assert parser.is_started


def test_a_parser_takes_one_head_after_another() -> None:
    parser = _coretest.HeadParser()
    for target in (b"/1", b"/2", b"/3"):
        data = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target
        assert parser.parse(data[:20]) == (MORE, None)
        assert parser.parse(data)[1]["target"] == target
        parser.reset()


@pytest.mark.parametrize(
    ("data", "method", "target"),
    [
        (b"\x16\x03\x01", b"", b""),
        (b"GE /#", b"GE", b"/"),
        (b"GET /a\x00", b"GET", b"/a"),
        (b"GET /a HTTP/2.0\r\n\r\n", b"GET", b"/a"),
        (b"\r\nGET /a HTTP/1.1\r\nA b\r\n\r\n", b"GET", b"/a"),
        (b"GET /a HTTP/1.1\r\nX: y\r\nZ: \r\n\r\n", b"GET", b"/a"),
        (b"GET " + b"/" * 33000, b"GET", b"/" * 32768),
    ],
)
def test_a_refusal_names_the_request_as_far_as_it_was_seen(
    data: bytes, method: bytes, target: bytes
) -> None:
    assert check_head(data)[1] == (method, target)


def test_field_length_is_of_the_line_without_its_end() -> None:
    line = b"X-Name: value"
    data = START + line + b"\r\n\r\n"
    assert check_head(data, field_length=len(line))[0] == len(data)
    assert check_head(data, field_length=len(line) - 1)[0] == "FIELD_LENGTH"
    assert check_head(START + b"X" * 8 + b":\r\n\r\n", field_length=8)[0] == "FIELD_LENGTH"
    assert check_head(START + b"X" * 7 + b":\r\n\r\n", field_length=8)[0] == len(START) + 12


def test_request_bytes_is_of_the_whole_head() -> None:
    data = b"\r\n" + START + b"\r\n"
    assert check_head(data, request_bytes=len(data))[0] == len(data)
    assert check_head(data, request_bytes=len(data) - 1)[0] == "REQUEST_LENGTH"
    assert parse_head(data + b"more", request_bytes=len(data))[0] == len(data)
    assert check_head(START, request_bytes=len(START))[0] == "REQUEST_LENGTH"


def test_target_bytes() -> None:
    data = START + b"\r\n"
    assert check_head(data, target_bytes=5)[0] == len(data)
    assert check_head(data, target_bytes=4)[0] == "URL_LENGTH"
    assert check_head(data, request_bytes=6)[0] == "URL_LENGTH"


def test_field_count_counts_dropped_names_too() -> None:
    data = START + b"a_b: c\r\n\r\n"
    assert check_head(data, field_count=2)[0] == len(data)
    assert check_head(data, field_count=1)[0] == "FIELD_COUNT"
    assert check_head(b"GET / HTTP/1.0\r\n\r\n", field_count=0)[0] > 0


def test_a_fault_is_seen_at_its_byte() -> None:
    for data, at in (
        (START + b"X-A: b\x00", 0),
        (START + b"X A", 1),
        (START + b" ", 0),
        (START + b"X-A: b\n", 0),
        (START + b"X-A: b\rc", 0),
        (b"GET /a\x7f", 0),
        (b"GET / HTTP/2.0", 0),
        (b"GET / HTTQ", 0),
        (b"CONNECT ", 0),
    ):
        shown = len(data) - 1 - at
        assert parse_head(data[:shown])[0] == MORE
        assert isinstance(parse_head(data[: shown + 1])[0], str)


def test_forwarding_lines_are_known_by_name() -> None:
    names = [b"X-Forwarded-For", b"X-Other", b"FORWARDED", b"x-forwarded-Anything", b"X-Forwarded"]
    data = START + b"".join(name + b": 1\r\n" for name in names) + b"\r\n"
    assert check_head(data)[1]["forwarding_lines"] == [1, 3, 4]


def test_seen_has_a_bit_for_each_known_name() -> None:
    _, head = check_head(START + b"Cookie: a\r\nX-Other: b\r\n\r\n")
    known = [wire for wire, _ in _coretest.known_fields()]
    assert head["seen"] == 1 << known.index("cookie") | 1 << known.index("host") | 1


def test_known_fields_have_their_environ_names() -> None:
    for wire, environ in _coretest.known_fields()[1:]:
        plain = wire.upper().replace("-", "_")
        expected = plain if wire in ("content-type", "content-length") else "HTTP_" + plain
        assert (wire, environ) == (wire.lower(), expected)
