"""The same bytes read by h11 and by httptools (llhttp): the first message."""

from __future__ import annotations

from dataclasses import dataclass, field

import h11
import httptools
from http1_cases import MORE, parse_head, read_chunks


@dataclass
class Reading:
    """What a parser takes the first message to be."""

    verdict: str = "more"  # "taken", "refused" or "more"
    method: bytes = b""
    target: bytes = b""
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    content: bytes = b""
    is_persistent: bool = True


def read_here(data: bytes) -> Reading:
    """Our own."""
    consumed, head = parse_head(data)
    if consumed == MORE:
        return Reading()
    if isinstance(consumed, str):
        return Reading("refused")
    reading = Reading("taken", head["method"], head["target"])
    reading.fields = [(name.lower(), value) for name, value, _ in head["fields"]]
    reading.is_persistent = head["is_persistent"]
    if head["is_chunked"]:
        content = read_chunks([data[consumed:]])
        reading.content = content.data
        if content.outcome != "done":
            return Reading("more" if content.outcome == "more" else "refused")
    elif head["content_length"] > 0:
        reading.content = data[consumed : consumed + head["content_length"]]
        if len(reading.content) < head["content_length"]:
            return Reading()
    return reading


def read_h11(data: bytes) -> Reading:
    """h11, the reference for what the RFC says."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    reading = Reading()
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return Reading()
            if isinstance(event, h11.Request):
                reading.method, reading.target = event.method, event.target
                reading.fields = list(event.headers)
            elif isinstance(event, h11.Data):
                reading.content += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                reading.verdict = "taken"
                reading.is_persistent = connection.their_state is not h11.MUST_CLOSE
                return reading
    except h11.RemoteProtocolError:
        return Reading("refused")


class _Collector:
    def __init__(self) -> None:
        self.reading = Reading()

    def on_url(self, url: bytes) -> None:
        if self.reading.verdict != "taken":
            self.reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.reading.verdict != "taken":
            self.reading.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.reading.verdict != "taken":
            self.reading.method = self.parser.get_method()
            self.reading.is_persistent = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self.reading.verdict != "taken":
            self.reading.content += body

    def on_message_complete(self) -> None:
        self.reading.verdict = "taken"

    parser: httptools.HttpRequestParser


def read_httptools(data: bytes) -> Reading:
    """httptools, in the strict mode that it has by default."""
    collector = _Collector()
    collector.parser = httptools.HttpRequestParser(collector)
    try:
        collector.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        if collector.reading.verdict != "taken":
            return Reading("refused")
    return collector.reading if collector.reading.verdict == "taken" else Reading()
