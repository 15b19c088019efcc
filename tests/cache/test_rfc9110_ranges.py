"""RFC 9110 section 14: parts of stored responses. How rows are read: test_rfc9111.py."""

import email.parser
import email.policy

import pytest
from origin import Row, Site, Step, hit, present, ran, reply, run, tables
from wire import Response

TEXT = "0123456789"
TEN = reply("max-age=1000", 'ETag: "a"', "Content-Type: text/x-any", content=TEXT)
DATED = reply("max-age=1000", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", content=TEXT)
FILL = ran(1).but(version=None, content=TEXT.encode())


def part(spec: str, first: int, last: int, *lines: str) -> Step:
    """206 from the store."""
    told = {"Content-Range": f"bytes {first}-{last}/10", "Content-Length": last - first + 1}
    content = TEXT[first : last + 1].encode()
    return hit(1, f"Range: {spec}", *lines, status=206, content=content, fields={**told})


def whole(*lines: str) -> Step:
    return hit(1, *lines, content=TEXT.encode(), fields={"Content-Range": None}).but(version=None)


def unsatisfiable(spec: str, length: int = 10) -> Step:
    told = {"Content-Range": f"bytes */{length}"}
    return hit(1, f"Range: {spec}", status=416, fields={**told}).but(version=None)


RANGES = tables(
    *(
        Row(f"14.1.2 {spec}", [TEN], [FILL, part(spec, first, last)])
        for spec, first, last in (
            ("bytes=0-3", 0, 3), ("bytes=0-0", 0, 0), ("bytes=9-9", 9, 9), ("bytes=4-", 4, 9),
            ("bytes=-3", 7, 9), ("bytes=-10", 0, 9), ("bytes=-100", 0, 9), ("bytes=5-100", 5, 9),
            ("bytes=0-9", 0, 9), ("bytes=0-99999999999999999999", 0, 9),
            ("BYTES=2-3", 2, 3), ("bytes=00002-03", 2, 3),
        )
    ),
    *(
        Row(f"14.1.2 {spec} cannot be satisfied", [TEN], [FILL, unsatisfiable(spec)])
        for spec in ("bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999-",
                     "bytes=10-,20-30")
    ),
    *(
        Row(f"14.2 {spec!r} does not count", [TEN], [FILL, whole(f"Range: {spec}")])
        for spec in ("bytes=5-2", "bytes=a-b", "bytes", "bytes=", "bytes=-", "bytes=1", "bytes 0-3",
                     "lines=0-1", "bytes=0-3;x", "bytes=0x0-3", "bytes=+1-3", "bytes=1--3")
    ),
    Row("14.2 only for GET", [TEN],
        [FILL, hit(1, "Range: bytes=0-3", method="HEAD", fields={"Content-Length": 10,
                                                                 "Content-Range": None})]),
    Row("14.2 only for what would be 200", [reply("max-age=1000", status=404, content=TEXT)],
        [FILL.but(status=404), hit(1, "Range: bytes=0-3", status=404, content=TEXT.encode())]),
    Row("14.2 nothing is there to have a part of", [reply("max-age=1000", content="")],
        [FILL.but(content=b""), unsatisfiable("bytes=0-", 0)]),
    Row("15.3.7 a 206 has the fields of the 200", [TEN],
        [FILL, part("bytes=1-2", 1, 2).but(
            fields={"ETag": '"a"', "Cache-Control": "max-age=1000", "Date": present})]),
    Row("14.2 a response without a length", [{**TEN, "chunked": True}],
        [FILL, part("bytes=2-5", 2, 5)]),
    Row("13.2.2 conditions come first", [TEN],
        [FILL, hit(1, "Range: bytes=0-3", 'If-None-Match: "a"', status=304, content=b""),
         part("bytes=0-3", 0, 3, 'If-None-Match: "b"')]),
)  # fmt: skip

IF_RANGE = tables(
    Row("13.1.5 the same tag", [TEN], [FILL, part("bytes=0-3", 0, 3, 'If-Range: "a"')]),
    Row("13.1.5 another tag", [TEN], [FILL, whole("Range: bytes=0-3", 'If-Range: "b"')]),
    Row("13.1.5 a weak tag never matches", [{**TEN, "fields": [["Cache-Control", "max-age=1000"],
                                                               ["ETag", 'W/"a"']]}],
        [FILL, whole("Range: bytes=0-3", 'If-Range: W/"a"'),
         whole("Range: bytes=0-3", 'If-Range: "a"')]),
    Row("13.1.5 a weak tag of theirs", [TEN], [FILL, whole("Range: bytes=0-3", 'If-Range: W/"a"')]),
    Row("13.1.5 without any tag of ours", [reply("max-age=1000", content=TEXT)],
        [FILL, whole("Range: bytes=0-3", 'If-Range: "a"')]),
    Row("13.1.5 the same date", [DATED],
        [FILL, part("bytes=0-3", 0, 3, "If-Range: Sun, 06 Nov 1994 08:49:37 GMT")]),
    Row("13.1.5 a later date is another one", [DATED],
        [FILL, whole("Range: bytes=0-3", "If-Range: Sun, 06 Nov 1994 08:49:38 GMT")]),
    Row("13.1.5 an earlier date", [DATED],
        [FILL, whole("Range: bytes=0-3", "If-Range: Sun, 06 Nov 1994 08:49:36 GMT")]),
    Row("8.8.2.2 a date of the same second is weak",
        [reply("max-age=1000", "Date: {now-5}", "Last-Modified: {now-5}", content=TEXT)],
        [FILL, whole("Range: bytes=0-3", "If-Range: {now-5}")]),
    Row("13.1.5 nonsense does not match", [TEN], [FILL, whole("Range: bytes=0-3", "If-Range: x")]),
    Row("13.1.5 without a Range it means nothing", [TEN], [FILL, whole('If-Range: "b"')]),
    Row("13.1.5 out of range, but of another version", [TEN],
        [FILL, whole("Range: bytes=100-", 'If-Range: "b"')]),
)  # fmt: skip

PASSED_ON = tables(
    Row("14.2 nothing is stored: the Range is passed on, a 206 comes back",
        [reply("max-age=1000", "Content-Range: bytes 0-3/10", status=206, content="0123"), TEN],
        [ran(1, "Range: bytes=0-3", status=206, content=b"0123", saw={"Range": "bytes=0-3"}),
         ran(2).but(version=None, content=TEXT.encode()), part("bytes=0-3", 0, 3)]),
    Row("14.2 a 200 to it is stored", [TEN],
        [ran(1, "Range: bytes=0-9").but(version=None, content=TEXT.encode(), status=None),
         part("bytes=4-5", 4, 5), whole()]),
    Row("14.2 a 416 of the application is passed on",
        [reply("Content-Range: bytes */10", status=416), TEN],
        [ran(1, "Range: bytes=100-", status=416), FILL]),
)  # fmt: skip


@pytest.mark.parametrize("row", RANGES + IF_RANGE + PASSED_ON)
def test_rfc9110_ranges(rfc9111: Site, row: Row) -> None:
    run(rfc9111, row)


def parts_of(response: Response, text: bytes) -> list[tuple[int, int]]:
    """(first, last) of each part, which holds what it says."""
    kind = response.one("Content-Type") or ""
    if not kind.lower().startswith("multipart/byteranges"):
        low, high = range_of(response.one("Content-Range") or "", len(text))
        assert response.content == text[low : high + 1]
        return [(low, high)]
    assert response.one("Content-Range") is None, "15.3.7.2"
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + response.content)
    found = []
    for piece in message.iter_parts():
        low, high = range_of(piece["Content-Range"], len(text))
        assert piece.get_payload(decode=True) == text[low : high + 1]
        assert piece["Content-Type"] == "text/x-any", "15.3.7.2"
        found.append((low, high))
    assert found
    return found


def range_of(text: str, length: int) -> tuple[int, int]:
    assert text.startswith("bytes ")
    assert text.endswith(f"/{length}")
    low, _, high = text[6:].partition("/")[0].partition("-")
    return int(low), int(high)


LINES = "".join(f"line {number:04}\n" for number in range(1000))  # 10,000 bytes
LONG = reply("max-age=1000", 'ETag: "a"', "Content-Type: text/x-any", content=LINES)


@pytest.mark.parametrize(
    "spec",
    ["0-9,9000-9009", "-10,0-9", "5000-5009,0-9,9990-", "0-9,20000-", "0-9,5000-5000",
     "0-99,50-149", "0-9,10-19", "0-9, ,100-109", "0-9,100-109,1000-1009,2000-2009,3000-3009"],
)  # fmt: skip
def test_15_3_7_2_several_ranges(rfc9111: Site, spec: str) -> None:
    name = rfc9111.origin.new_name()
    rfc9111.origin.script(name, LONG)
    rfc9111.server.ask(f"/{name}")
    response = rfc9111.server.ask(f"/{name}", f"Range: bytes={spec}")
    assert response.status == 206, response
    asked: set[int] = set()
    for one in spec.replace(" ", "").split(","):
        low, _, high = one.partition("-")
        if low and int(low) < len(LINES):
            asked |= set(range(int(low), min(int(high or len(LINES)), len(LINES) - 1) + 1))
        elif high and not low:
            asked |= set(range(len(LINES) - int(high), len(LINES)))
    parts = parts_of(response, LINES.encode())
    got = {byte for low, high in parts for byte in range(low, high + 1)}
    assert asked <= got
    assert len(got) <= len(asked) + 80 * len(parts), "14.2: only small gaps may be joined"
    assert rfc9111.origin.count(name) == 1


@pytest.mark.parametrize(
    "spec",
    ["0-," * 300 + "0-", "0-9999," * 50 + "5-", ",".join(f"{n}-{n}" for n in range(0, 2000, 2))],
)  # fmt: skip
def test_14_2_many_ranges_cost_no_more_than_the_whole(rfc9111: Site, spec: str) -> None:
    name = rfc9111.origin.new_name()
    rfc9111.origin.script(name, LONG)
    rfc9111.server.ask(f"/{name}")
    response = rfc9111.server.ask(f"/{name}", f"Range: bytes={spec}")
    assert response.status in (200, 206, 416)
    assert len(response.content) < 2 * len(LINES)
    if response.status == 200:
        assert response.text == LINES


def test_14_a_part_of_a_large_response(rfc9111: Site) -> None:
    name = rfc9111.origin.new_name()
    rfc9111.origin.script(name, reply("max-age=1000", bytes=200_000))
    text = rfc9111.server.ask(f"/{name}").content
    assert len(text) == 200_000
    for low, high in ((0, 0), (65_535, 65_536), (100_000, 199_999), (131_071, 196_609)):
        response = rfc9111.server.ask(f"/{name}", f"Range: bytes={low}-{high}")
        assert (response.status, response.content) == (206, text[low : high + 1])
    assert rfc9111.origin.count(name) == 1
