"""What must hold for any bytes: neither the cut nor the scan's width matters, nothing is overread.

Every input stands before an unreadable page (tests/doors/guard.pxi).
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from http1_cases import (
    MORE,
    check_chunks,
    check_head,
    parse_head,
    parse_in_pieces,
    read_chunks,
)
from http1_strategies import KNOWN, any_chunked, any_head, heads, names, text
from hypothesis import given
from hypothesis import strategies as st

from kernelq import _coretest

tight = st.fixed_dictionaries(
    {
        "field_length": st.integers(1, 60),
        "request_bytes": st.integers(1, 200),
        "target_bytes": st.integers(0, 40),
        "field_count": st.integers(0, 4),
    }
)

# ---- heads ----


@given(any_head)
def test_any_way_to_arrive(data: bytes) -> None:
    check_head(data)


@given(any_head, tight)
def test_any_way_to_arrive_within_tight_limits(data: bytes, limits: dict[str, int]) -> None:
    check_head(data, **limits)


@given(any_head, st.data())
def test_any_split(data: bytes, draw: st.DataObject) -> None:
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=8))
    assert parse_in_pieces(data, cuts) == parse_head(data)


@given(heads())
def test_every_prefix_of_a_good_head_asks_for_more(data: bytes) -> None:
    consumed, _ = parse_head(data)
    if isinstance(consumed, int) and consumed:
        assert all(parse_head(data[:count])[0] == MORE for count in range(consumed))


@given(any_head)
def test_same_answer_at_every_width(data: bytes) -> None:
    former = _coretest.set_scan_level(0)
    try:
        plain = parse_head(data)
        for level in _coretest.SCAN_LEVELS:
            _coretest.set_scan_level(level)
            assert parse_head(data) == plain
    finally:
        _coretest.set_scan_level(former)


@given(heads())
def test_accepted_heads_are_what_was_sent(data: bytes) -> None:
    """An independent reading of the same bytes, by splitting."""
    consumed, head = parse_head(data)
    if not isinstance(consumed, int) or not consumed:
        return
    start, *section = data[:consumed].lstrip(b"\r\n").removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, target, version = start.split(b" ")
    assert (head["method"], head["target"]) == (method, target)
    assert head["version_minor"] == min(1, int(version[-1:]))
    pairs = [line.split(b":", 1) for line in section]
    expected = [(name, value.strip(b" \t")) for name, value in pairs]
    assert [line[:2] for line in head["fields"]] == [x for x in expected if b"_" not in x[0]]
    assert head["dropped_count"] == sum(b"_" in name for name, _ in expected)
    for name, _, known in head["fields"]:
        lower = name.decode().lower()
        assert known == (lower if lower in KNOWN else "")


# ---- scans and tables ----


@pytest.mark.parametrize("level", _coretest.SCAN_LEVELS)
@pytest.mark.parametrize("find", [_coretest.find_value_end, _coretest.find_target_end])
def test_each_byte_at_each_place(level: int, find: Any) -> None:
    """Every byte value at every place of runs that span several steps of each width."""
    is_value = find is _coretest.find_value_end
    stops = [*range(9), *range(10, 32), 127] if is_value else [*range(33), 35, *range(127, 256)]
    former = _coretest.set_scan_level(level)
    try:
        for size in (1, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100):
            for at in range(size):
                run = bytearray(b"a" * size)
                for byte in stops if size < 50 else (0, 10, 13, 127):
                    run[at] = byte
                    assert find(bytes(run)) == at
            for byte in set(range(256)) - set(stops):
                assert find(bytes([byte]) * size) == size
    finally:
        _coretest.set_scan_level(former)


@given(st.text("a\t\x80 ", max_size=200), st.sampled_from("\0\r\n\x7f\x1f"), st.binary(max_size=80))
def test_scan_goes_on_over_tabs(start: str, stop: str, rest: bytes) -> None:
    data = start.encode("latin-1") + stop.encode() + rest
    former = _coretest.set_scan_level(0)
    try:
        for level in _coretest.SCAN_LEVELS:
            _coretest.set_scan_level(level)
            assert _coretest.find_value_end(data) == len(start)
    finally:
        _coretest.set_scan_level(former)


@given(st.binary(min_size=32, max_size=32))
def test_colon(data: bytes) -> None:
    assert _coretest.find_colon(data) == (data + b":").index(b":")


@given(st.one_of(names, st.binary(min_size=1, max_size=40)))
def test_known_names(name: bytes) -> None:
    lower = name.decode("latin-1")
    lower = lower.lower() if lower.isascii() else lower
    number = _coretest.find_field(name)
    assert number == (KNOWN.index(lower) + 1 if lower in KNOWN else 0)


@pytest.mark.parametrize("name", KNOWN)
def test_known_name_with_one_bit_wrong(name: str) -> None:
    """Only the case of letters may differ: "content\\rlength" is not "content-length"."""
    for at, bit in ((at, bit) for at in range(len(name)) for bit in range(8)):
        wrong = bytearray(name.encode())
        wrong[at] ^= 1 << bit
        same = bytes(wrong).decode("latin-1").lower() == name and name[at].isalpha()
        assert (_coretest.find_field(bytes(wrong)) > 0) == same or bytes(wrong).decode(
            "latin-1"
        ) in KNOWN


# ---- chunked content ----


@given(any_chunked)
def test_chunks_arrive_in_any_way(data: bytes) -> None:
    check_chunks(data)


@given(any_chunked, st.integers(1, 60), st.integers(0, 3))
def test_chunks_within_tight_limits(data: bytes, field_length: int, field_count: int) -> None:
    check_chunks(data, field_length=field_length, field_count=field_count)


@given(any_chunked, st.data())
def test_chunks_in_any_split(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    ends = zip([0, *cuts], [*cuts, len(data)], strict=True)
    split = read_chunks([data[start:end] for start, end in ends])
    whole = read_chunks([data])
    assert (split.data, split.outcome) == (whole.data, whole.outcome)


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=6))
def test_chunks_come_back_as_sent(content: list[bytes]) -> None:
    sent = b"".join(b"%x\r\n%s\r\n" % (len(data), data) for data in content) + b"0\r\n\r\n"
    read = check_chunks(sent)
    assert (read.data, read.consumed, read.outcome) == (b"".join(content), len(sent), "done")
    for count in range(len(sent)):
        assert read_chunks([sent[:count]]).outcome == "more"


# ---- paths ----


def normalise(raw: bytes) -> bytes | None:
    """The definition, by RFC 3986 §5.2.4, over the whole text."""
    if re.search(rb"%(?![0-9A-Fa-f]{2})", raw) or not raw.startswith(b"/"):
        return None
    text = re.sub(rb"%(..)", lambda found: bytes([int(found[1], 16)]), raw, flags=re.DOTALL)
    if re.search(rb"[\x00-\x1f\x7f]", text):
        return None
    output: list[bytes] = []
    segments = text[1:].split(b"/")
    for index, segment in enumerate(segments):
        is_last = index == len(segments) - 1
        if segment == b"..":
            output = output[:-1]
        if segment not in (b".", b".."):
            output.append(segment)
        elif is_last:
            output.append(b"")
    return b"/" + b"/".join(output)


PATH_PARTS = b"/ / . .. a %2e %2F %25 %00 %7f %c3".split()
paths = st.one_of(
    text("/.%2eEfa", max_size=40).map(lambda rest: b"/" + rest),
    st.lists(st.sampled_from(PATH_PARTS), max_size=20).map(lambda parts: b"/" + b"".join(parts)),
    st.binary(max_size=30),
)


@given(paths)
def test_normalised_path_is_the_definition(raw: bytes) -> None:
    expected = normalise(raw)
    assert _coretest.normalise_path(raw) == ("URL" if expected is None else expected)


@given(paths)
def test_normalised_path_has_no_dot_segments(raw: bytes) -> None:
    path = _coretest.normalise_path(raw)
    if path != "URL":
        assert path.startswith(b"/")
        assert not {b".", b".."} & set(path.split(b"/"))
