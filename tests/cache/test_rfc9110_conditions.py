"""RFC 9110 section 13 and RFC 9111 section 4.3.2: conditions that clients send, answered from the
store or passed on. How rows are read: test_rfc9111.py.
"""

import pytest
from origin import Row, Site, Step, current, hit, present, ran, reply, run, tables
from wire import Client, request

A, B = 'ETag: "a"', 'ETag: "b"'
MODIFIED = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"
SINCE = "If-Modified-Since: "
TAGGED = reply("max-age=1000", A)
DATED = reply("max-age=1000", MODIFIED)


def unchanged(*lines: str) -> Step:
    """304 from the store."""
    return hit(1, *lines, status=304, content=b"")


IF_NONE_MATCH = tables(
    Row("13.1.2 the same tag", [TAGGED], [ran(1), unchanged('If-None-Match: "a"')]),
    Row("13.1.2 another tag", [TAGGED], [ran(1), hit(1, 'If-None-Match: "b"')]),
    Row("13.1.2 one of several", [TAGGED], [ran(1), unchanged('If-None-Match: "b", "a" , "c"')]),
    Row("13.1.2 none of several", [TAGGED], [ran(1), hit(1, 'If-None-Match: "b", "A", "ab"')]),
    Row("13.1.2 several lines are the application's to judge", [TAGGED],
        [ran(1), ran(2, 'If-None-Match: "b"', 'If-None-Match: "a"')]),
    Row("13.1.2 * matches all", [TAGGED], [ran(1), unchanged("If-None-Match: *")]),
    Row("13.1.2 * matches also what has no tag", [reply("max-age=1000")],
        [ran(1), unchanged("If-None-Match: *")]),
    Row("13.1.2 what has no tag matches none", [reply("max-age=1000")],
        [ran(1), hit(1, 'If-None-Match: "a"')]),
    Row("8.8.3.2 weak comparison: theirs is weak", [TAGGED],
        [ran(1), unchanged('If-None-Match: W/"a"')]),
    Row("8.8.3.2 weak comparison: ours is weak", [reply("max-age=1000", 'ETag: W/"a"')],
        [ran(1), unchanged('If-None-Match: "a"')]),
    Row("8.8.3.2 weak comparison: both are", [reply("max-age=1000", 'ETag: W/"a"')],
        [ran(1), unchanged('If-None-Match: W/"a"')]),
    Row("8.8.3 a tag with a comma", [reply("max-age=1000", 'ETag: "a,b"')],
        [ran(1), unchanged('If-None-Match: "x", "a,b"'), hit(1, 'If-None-Match: "a", "b"')]),
    Row("8.8.3 an empty tag", [reply("max-age=1000", 'ETag: ""')],
        [ran(1), unchanged('If-None-Match: ""'), hit(1, 'If-None-Match: "a"')]),
    Row("13.1.2 a tag without quotes is none", [TAGGED], [ran(1), hit(1, "If-None-Match: a")]),
    Row("13.1.2 HEAD too", [TAGGED],
        [ran(1), unchanged('If-None-Match: "a"').but(method="HEAD")]),
    Row("15.4.5 a 304 has the fields that the 200 had",
        [reply("max-age=1000", A, "Content-Location: /x", "Vary: Accept",
               "Expires: Thu, 01 Jan 2099 00:00:00 GMT", "Date: {now-10}")],
        [ran(1), unchanged('If-None-Match: "a"').but(
            fields={"ETag": '"a"', "Cache-Control": "max-age=1000", "Content-Location": "/x",
                    "Vary": "Accept", "Expires": "Thu, 01 Jan 2099 00:00:00 GMT",
                    "Date": present}, age=10)]),
    Row("9111-4.3.2 conditions of a variant",
        [reply("max-age=1000", "Vary: Accept", A), reply("max-age=1000", "Vary: Accept", B)],
        [ran(1, "Accept: x/a"), ran(2, "Accept: x/b"),
         unchanged("Accept: x/a", 'If-None-Match: "a"'),
         hit(2, "Accept: x/b", 'If-None-Match: "a"')]),
    Row("13.2.1 only for what would be 200", [reply("max-age=1000", A, status=404)],
        [ran(1, status=404), hit(1, 'If-None-Match: "a"', status=404)]),
)  # fmt: skip

IF_MODIFIED_SINCE = tables(
    Row("13.1.3 the same date", [DATED], [ran(1), unchanged(SINCE + MODIFIED[15:])]),
    Row("13.1.3 a later date", [DATED], [ran(1), unchanged(SINCE + "{now}")]),
    Row("13.1.3 an earlier date", [DATED],
        [ran(1), hit(1, SINCE + "Sun, 06 Nov 1994 08:49:36 GMT")]),
    Row("13.1.3 RFC 850 dates", [DATED],
        [ran(1), unchanged(SINCE + "Sunday, 06-Nov-94 08:49:37 GMT")]),
    Row("13.1.3 asctime dates", [DATED], [ran(1), unchanged(SINCE + "Sun Nov  6 08:49:37 1994")]),
    Row("13.1.3 an invalid date does not count", [DATED], [ran(1), hit(1, SINCE + "soon")]),
    Row("13.1.3 If-None-Match beside it counts alone: it differs",
        [reply("max-age=1000", A, MODIFIED)],
        [ran(1), hit(1, 'If-None-Match: "b"', SINCE + "{now}")]),
    Row("13.1.3 If-None-Match beside it counts alone: it matches",
        [reply("max-age=1000", A, MODIFIED)],
        [ran(1), unchanged('If-None-Match: "a"', SINCE + "Sun, 06 Nov 1994 08:49:36 GMT")]),
    Row("9111-4.3.2 without Last-Modified the Date counts: not later",
        [reply("max-age=1000", "Date: {now-500}")], [ran(1), unchanged(SINCE + "{now-400}")]),
    Row("9111-4.3.2 without Last-Modified the Date counts: later",
        [reply("max-age=1000", "Date: {now-500}")], [ran(1), hit(1, SINCE + "{now-600}")]),
    Row("13.1.3 HEAD too", [DATED],
        [ran(1), unchanged(SINCE + "{now}").but(method="HEAD")]),
    Row("13.2.1 only for what would be 200", [reply("max-age=1000", MODIFIED, status=404)],
        [ran(1, status=404), hit(1, SINCE + "{now}", status=404)]),
)  # fmt: skip

PASSED_ON = tables(
    *(
        Row(f"13.1 {line.split(':')[0]} is for the application", [TAGGED],
            [ran(1), ran(2, line, saw={line.split(":")[0]: present}), hit(1)])
        for line in ('If-Match: "a"', "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT")
    ),
    Row("13.1.1 a 412 is passed on, and not stored", [TAGGED, reply("max-age=1000", status=412)],
        [ran(1), ran(2, 'If-Match: "x"', status=412), hit(1)]),
    Row("9111-4.3.2 nothing is stored: the condition is passed on",
        [current("max-age=1000", A)],
        [ran(1, 'If-None-Match: "a"', status=304, content=b"", saw={"If-None-Match": '"a"'}),
         ran(2), hit(2)]),
    Row("9111-4.3.2 a date likewise",
        [current("max-age=1000", MODIFIED)],
        [ran(1, SINCE + MODIFIED[15:], status=304, saw={"If-Modified-Since": MODIFIED[15:]}),
         ran(2)]),
    Row("9111-4.3.2 a 200 to a conditional request is stored", [TAGGED],
        [ran(1, 'If-None-Match: "b"'), hit(1), unchanged('If-None-Match: "a"')]),
    Row("9111-4.3.2 stale, and the client has what is current",
        [current("max-age=1000", "Age: 2000", A)],
        [ran(1), ran(2, 'If-None-Match: "a"', status=304, content=b"")]),
    Row("9111-4.3.2 stale, and the client has another version: it gets the current one",
        [current("max-age=1000", "Age: 2000", A, content="same")],
        [ran(1).but(version=None),
         ran(2, 'If-None-Match: "b"', content=b"same").but(version=None)]),
    Row("9111-4.3.2 stale, and both are out of date",
        [reply("max-age=1000", "Age: 2000", A), current("max-age=1000", B)],
        [ran(1), ran(2, 'If-None-Match: "a"'), hit(2)]),
    Row("9111-4.3.2 stale, by date",
        [current("max-age=1000", "Age: 2000", MODIFIED)],
        [ran(1), ran(2, SINCE + MODIFIED[15:], status=304, content=b"")]),
)  # fmt: skip


@pytest.mark.parametrize("row", IF_NONE_MATCH + IF_MODIFIED_SINCE + PASSED_ON)
def test_rfc9110_conditions(rfc9111: Site, row: Row) -> None:
    run(rfc9111, row)


def test_15_4_5_a_304_ends_at_its_fields(rfc9111: Site) -> None:
    name = rfc9111.origin.new_name()
    rfc9111.origin.script(name, TAGGED)
    rfc9111.server.ask(f"/{name}")
    with Client(rfc9111.server.address()) as client:
        conditional = request("GET", f"/{name}", 'If-None-Match: "a"')
        client.send(conditional + request("GET", f"/{name}") + conditional)
        assert [client.response().status for _ in range(3)] == [304, 200, 304]
        assert client.is_quiet()
    assert rfc9111.origin.count(name) == 1
