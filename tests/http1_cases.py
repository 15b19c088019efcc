"""The three-way helper: the same bytes whole, byte by byte, in pieces, and with more behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernelq import _coretest

if TYPE_CHECKING:
    from collections.abc import Iterable

Outcome = tuple[int | str, Any]

MORE = 0
TRAILING = (b"G", b"\r\n", b"\n", b" x\r\n", b"\x00" * 40, b"GET /next HTTP/1.1\r\nHost: b\r\n\r\n")


def parse_head(data: bytes, **limits: int) -> Outcome:
    """Parse the bytes as one piece."""
    outcome: Outcome = _coretest.HeadParser(**limits).parse(data)
    return outcome


def parse_in_pieces(data: bytes, cuts: Iterable[int], **limits: int) -> Outcome:
    """Parse with one parser that sees the bytes up to each cut in turn, then all of them."""
    parser = _coretest.HeadParser(**limits)
    for cut in [*sorted(cuts), len(data)]:
        outcome: Outcome = parser.parse(data[:cut])
        if outcome[0] != MORE:
            return outcome
    return outcome


def check_head(data: bytes, **limits: int) -> Outcome:
    """Parse in every way and return the one outcome that all must have."""
    whole = parse_head(data, **limits)
    parser = _coretest.HeadParser(**limits)
    stepwise: Outcome = (MORE, None)
    for count in range(len(data) + 1):
        stepwise = parser.parse(data[:count])
        assert parse_head(data[:count], **limits) == stepwise, data[:count]
        if stepwise[0] != MORE:
            break
        # A version is read again until it is complete, and so is a lone CR: never more than that.
        assert count - parser.checked < 10
    assert stepwise == whole
    if whole[0] != MORE:
        shown = data[:count]
        for behind in (b"", *TRAILING):
            assert parse_head(shown + behind, **limits) == whole
    return whole


@dataclass
class Content:
    """What a chunk decoder made of some bytes."""

    data: bytes
    consumed: int
    outcome: str  # "done", "more" or the name of a reason


def read_chunks(pieces: Iterable[bytes], **limits: int) -> Content:
    """Decode chunked content that arrives in these pieces."""
    reader = _coretest.ChunkReader(**limits)
    content = Content(b"", 0, "more")
    for piece in pieces:
        rest = piece
        while rest:
            consumed, data, done = reader.feed(rest)
            if isinstance(consumed, str):
                content.outcome = consumed
                return content
            assert consumed > 0
            content.data += data
            content.consumed += consumed
            rest = rest[consumed:]
            if done:
                content.outcome = "done"
                return content
    return content


def check_chunks(data: bytes, **limits: int) -> Content:
    """Decode whole and byte by byte; the outcome and all the data before it must be the same."""
    whole = read_chunks([data], **limits)
    stepwise = read_chunks([data[at : at + 1] for at in range(len(data))], **limits)
    assert (whole.data, whole.outcome) == (stepwise.data, stepwise.outcome)
    if whole.outcome in ("done", "more"):
        assert whole.consumed == stepwise.consumed
    if whole.outcome == "done":
        assert read_chunks([data + b"GET / HTTP/1.1\r\n"], **limits) == whole
    return whole


def read_messages(data: bytes) -> tuple[list[dict[str, Any]], str]:
    """All requests with their content, and how the bytes end: "end", "more" or a reason."""
    messages: list[dict[str, Any]] = []
    while data:
        consumed, head = check_head(data) if len(data) < 2000 else parse_head(data)
        if consumed == MORE:
            return messages, "more"
        if isinstance(consumed, str):
            return messages, consumed
        data = data[consumed:]
        if head["is_chunked"]:
            content = check_chunks(data)
            if content.outcome != "done":
                return messages, content.outcome
            head["content"] = content.data
            data = data[content.consumed :]
        else:
            size = max(0, head["content_length"])
            head["content"], data = data[:size], data[size:]
            if len(head["content"]) < size:
                return messages, "more"
        messages.append(head)
    return messages, "end"
