"""Chunked content: bounds, and where a call ends."""

from __future__ import annotations

import pytest
from http1_cases import check_chunks, read_chunks

from kernelq import _coretest

LIMITS = _coretest.LIMITS


def test_a_call_ends_behind_its_data() -> None:
    reader = _coretest.ChunkReader()
    assert reader.feed(b"5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\nGET") == (8, b"hello", False)
    assert reader.feed(b"\r\n3\r\nab") == (7, b"ab", False)
    assert reader.feed(b"c\r\n0\r\n\r\nGET") == (1, b"c", False)
    assert reader.feed(b"\r\n0\r\n\r\nGET") == (7, b"", True)


def test_data_before_a_fault_is_good() -> None:
    content = check_chunks(b"5\r\nhello\r\n3\r\nabcX")
    assert (content.data, content.outcome) == (b"helloabc", "CHUNK")


def test_nothing_in_nothing_out() -> None:
    assert _coretest.ChunkReader().feed(b"") == (0, b"", False)


@pytest.mark.parametrize("digits", [b"7fffffffffffffff", b"7FFFFFFFFFFFFFFF"])
def test_the_largest_size(digits: bytes) -> None:
    assert read_chunks([digits + b"\r\nabc"]) == read_chunks([digits + b"\r\na", b"bc"])
    assert read_chunks([digits + b"\r\nabc"]).data == b"abc"


def test_extensions_are_bounded_over_the_whole_content() -> None:
    room = LIMITS["chunk_extension_bytes"]
    # Of ";a" and its line end, the name and the CR behind it count.
    good = b"1;a\r\nx\r\n" * (room // 2) + b"0\r\n\r\n"
    assert read_chunks([good]).outcome == "done"
    assert read_chunks([b"1;a\r\nx\r\n" + good]).outcome == "CHUNK"


def test_trailers_are_bounded() -> None:
    last = b"0\r\n"
    line = b"X: " + b"y" * 99 + b"\r\n"
    count = (LIMITS["trailer_bytes"] - 2) // len(line)
    rest = LIMITS["trailer_bytes"] - 2 - count * len(line)
    fill = b"Z:" + b"z" * (rest - 4) + b"\r\n"
    limits = {"field_count": count + 1}
    assert read_chunks([last + line * count + fill + b"\r\n"], **limits).outcome == "done"
    longer = last + line * count + b"z" + fill + b"\r\n"
    assert read_chunks([longer], **limits).outcome == "TRAILER"


def test_trailer_lines_have_the_limits_of_field_lines() -> None:
    data = b"0\r\nX-A: b\r\nX-B: c\r\n\r\n"
    assert check_chunks(data, field_length=6, field_count=2).outcome == "done"
    assert check_chunks(data, field_length=5).outcome == "TRAILER"
    assert check_chunks(data, field_count=1).outcome == "TRAILER"
