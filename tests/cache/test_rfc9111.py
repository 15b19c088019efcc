"""RFC 9111, sections 2, 3 and 5: what is stored, under which key, and what directives mean. A row
says what the application answers, one execution after the other, and what clients then get.

`ran(2)`: the application was asked, and its second answer came; `hit(1)`: its first answer came
from the store; `renewed(1)`: it was asked with conditions, said 304, and the stored one came.
"""

import pytest
from origin import (
    Row,
    Site,
    current,
    hit,
    posted,
    present,
    ran,
    refused,
    renewed,
    reply,
    run,
    tables,
)
from wire import Client, request

FRESH = reply("max-age=1000")
STALE = ("max-age=1000", "Age: 2000")
TAGGED = (*STALE, 'ETag: "a"')

KEYS = tables(
    Row("2 a second request is answered from the store", [FRESH], [ran(1), hit(1), hit(1)]),
    Row("2 the path is part of the key", [FRESH], [ran(1), ran(2, path="/other"), hit(1)]),
    Row("2 the case of the path counts", [FRESH], [ran(1, path="/a"), ran(2, path="/A")]),
    Row("2 the query is part of the key", [FRESH],
        [ran(1, path="?a=1"), ran(2, path="?a=2"), hit(1, path="?a=1"), ran(3, path="?A=1")]),
    Row("2 an empty query is not none", [FRESH], [ran(1), ran(2, path="?"), hit(1)]),
    Row("2 the order of a query counts", [FRESH], [ran(1, path="?a&b"), ran(2, path="?b&a")]),
    Row("2 the host is part of the key", [FRESH], [ran(1), ran(2, host="other"), hit(1)]),
    Row("2 the case of the host does not count", [FRESH], [ran(1), hit(1, host="TeSt")]),
    Row("2 the default port does not count", [FRESH], [ran(1), hit(1, host="test:80")]),
    Row("2 another port counts", [FRESH], [ran(1), ran(2, host="test:8080")]),
    Row("3986-6.2.2.1 the case of escapes does not count", [FRESH],
        [ran(1, path="/%c3%a9"), hit(1, path="/%C3%A9")]),
    Row("3986-6.2.2.2 escaped unreserved characters do not count", [FRESH],
        [ran(1, path="/~a-b"), hit(1, path="/%7E%61%2db")]),
    Row("3986-2.2 escaped reserved characters count", [FRESH],
        [ran(1, path="/a,b"), ran(2, path="/a%2Cb")]),
    Row("3986-2.2 an escaped question mark is none", [FRESH],
        [ran(1, path="/a?b"), ran(2, path="/a%3Fb"), hit(1, path="/a?b")]),
    Row("3986-6.2.2.3 dot segments do not count", [FRESH],
        [ran(1, path="/a/b"), hit(1, path="/a/./x/../b")]),
    Row("3986-6.2.2 a plus is not a space", [FRESH],
        [ran(1, path="?a+b"), ran(2, path="?a%20b"), hit(1, path="?a+b")]),
    Row("3986-6.2.2 two slashes are not one", [FRESH], [ran(1, path="/a//b"), ran(2, path="/a/b")]),
    Row("3986-6.2.2 a trailing slash counts", [FRESH], [ran(1, path="/a"), ran(2, path="/a/")]),
)  # fmt: skip

STORED_STATUSES = (200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501)
STORING = tables(
    *(
        Row(f"3 status {status} with explicit freshness is stored",
            [reply("max-age=1000", status=status)], [ran(1, status=status), hit(1, status=status)])
        for status in STORED_STATUSES
    ),
    Row("3 a response to HEAD is not stored for GET", [FRESH],
        [ran(1, method="HEAD"), ran(2), hit(2)]),
    Row("3 a response to POST is not stored for GET", [FRESH], [posted(), ran(2)]),
    Row("3 a response to a method that is not understood is not stored", [FRESH],
        [posted(method="FROBNICATE"), ran(2)]),
    Row("3 a GET with content is passed on and not stored", [FRESH],
        [posted(method="GET", status=200), ran(2), hit(2), posted(method="GET")]),
    Row("3 no-store", [reply("no-store")], [ran(1), ran(2)]),
    Row("3 no-store beside max-age", [reply("max-age=1000, no-store")], [ran(1), ran(2)]),
    Row("3 no-store beside public", [reply("public, no-store, max-age=1000")], [ran(1), ran(2)]),
    Row("3 no-store in a second field line",
        [reply("max-age=1000", "Cache-Control: no-store")], [ran(1), ran(2)]),
    Row("3 private", [reply("private, max-age=1000")], [ran(1), ran(2)]),
    Row("3 private beside s-maxage", [reply("private, s-maxage=1000")], [ran(1), ran(2)]),
    Row("3 a 302 without explicit freshness", [reply(status=302)],
        [ran(1, status=302), ran(2, status=302)]),
    Row("3 a 403 without explicit freshness", [reply("Last-Modified: {now-1000000}", status=403)],
        [ran(1, status=403), ran(2, status=403)]),
    Row("3 an unknown status without explicit freshness",
        [reply("Last-Modified: {now-1000000}", status=299)],
        [ran(1, status=299), ran(2, status=299)]),
    Row("3 an error without explicit freshness", [reply(status=500)],
        [ran(1, status=500), ran(2, status=500)]),
    Row("3 Expires makes it storable", [reply("Expires: {now+1000}", status=302)],
        [ran(1, status=302), hit(1, status=302)]),
    Row("3 s-maxage makes it storable", [reply("s-maxage=1000")], [ran(1), hit(1)]),
    Row("3 public makes it storable", [reply("public, max-age=1000")], [ran(1), hit(1)]),
    Row("3 Set-Cookie alone does not forbid it", [reply("max-age=1000", "Set-Cookie: a=b")],
        [ran(1), hit(1, fields={"Set-Cookie": "a=b"})]),
    Row("3 without a length", [reply("max-age=1000", chunked=True)],
        [ran(1), hit(1, fields={"Content-Length": present, "Transfer-Encoding": None})]),
    Row("3 without content", [reply("max-age=1000", content="")],
        [ran(1).but(version=None, content=b""),
         hit(1, fields={"Content-Length": 0}).but(version=None, content=b"")]),
)  # fmt: skip

FIELDS = tables(
    Row("3.1 all fields are stored, unknown ones too",
        [reply("max-age=1000", "X-Any: thing", "Content-Type: text/x-any", "Link: <a>; rel=b")],
        [ran(1), hit(1, fields={"X-Any": "thing", "Content-Type": "text/x-any",
                                "Link": "<a>; rel=b", "Cache-Control": "max-age=1000"})]),
    Row("3.1 field lines keep their number and order",
        [reply("max-age=1000", "X-A: 1", "X-B: 2", "X-A: 3")],
        [ran(1), hit(1, fields={"X-A": "1, 3"})]),
    Row("3.1 fields of a proxy's authentication are not stored",
        [reply("max-age=1000", "Proxy-Authentication-Info: nextnonce=1")],
        [ran(1), hit(1, fields={"Proxy-Authentication-Info": None})]),
    Row("3.1 framing and connection fields are the connection's own",
        [reply("max-age=1000")],
        [ran(1, "Connection: close"), hit(1, fields={"Connection": None}),
         hit(1, "Connection: close", fields={"Connection": "close"})]),
    Row("3.2 a 304 replaces stored fields and keeps the others",
        [current(*TAGGED, "X-A: 1", "X-B: 1", "X-B: 2",
                 fields_304=[["Cache-Control", "max-age=1000"], ["ETag", '"a"'], ["X-A", "2"]])],
        [ran(1), renewed(1, fields={"X-A": "2", "X-B": "1, 2"}),
         hit(1, fields={"X-A": "2", "X-B": "1, 2", "ETag": '"a"'})]),
    Row("3.2 all instances of a field are replaced",
        [current(*TAGGED, "X-A: 1", "X-A: 2",
                 fields_304=[["Cache-Control", "max-age=1000"], ["ETag", '"a"'], ["X-A", "3"]])],
        [ran(1), renewed(1), hit(1, fields={"X-A": "3"})]),
    Row("3.2 a 304 that brings a new field",
        [current(*TAGGED,
                 fields_304=[["Cache-Control", "max-age=1000"], ["ETag", '"a"'], ["X-New", "1"]])],
        [ran(1), renewed(1, fields={"X-New": "1"}), hit(1, fields={"X-New": "1"})]),
    Row("3.2 Content-Length is not updated",
        [current(*TAGGED, fields_304=[["Cache-Control", "max-age=1000"], ["ETag", '"a"']])],
        [ran(1), renewed(1, fields={"Content-Length": present}), hit(1)]),
    Row("3.4 a 206 is not stored as if it were all",
        [reply("max-age=1000", "Content-Range: bytes 0-3/100", status=206, content="abcd"), FRESH],
        [ran(1, "Range: bytes=0-3", status=206, content=b"abcd"), ran(2), hit(2)]),
    Row("3.4 parts without a strong validator are not combined",
        [reply("max-age=1000", "Content-Range: bytes 0-3/8", status=206, content="abcd"),
         reply("max-age=1000", "Content-Range: bytes 4-7/8", status=206, content="efgh"), FRESH],
        [ran(1, "Range: bytes=0-3", status=206), ran(2, "Range: bytes=4-7", status=206), ran(3)]),
)  # fmt: skip

SAME = ran(1).but(version=None, content=b"same")
AUTHORIZED = "Authorization: Basic eDp5"
AUTHORIZATION = tables(
    Row("3.5 a response to an authorized request is not stored", [FRESH],
        [ran(1, AUTHORIZED), ran(2), hit(2)]),
    Row("3.5 nor for the same client", [FRESH], [ran(1, AUTHORIZED), ran(2, AUTHORIZED)]),
    Row("3.5 nor with Expires alone", [reply("Expires: {now+1000}")], [ran(1, AUTHORIZED), ran(2)]),
    Row("3.5 public allows it", [reply("public, max-age=1000")], [ran(1, AUTHORIZED), hit(1)]),
    Row("3.5 s-maxage allows it", [reply("s-maxage=1000")], [ran(1, AUTHORIZED), hit(1)]),
    Row("3.5 must-revalidate allows it", [reply("max-age=1000, must-revalidate")],
        [ran(1, AUTHORIZED), hit(1)]),
    Row("3.5 s-maxage=0 has to be asked for each time",
        [current("s-maxage=0", 'ETag: "a"')],
        [ran(1, AUTHORIZED), renewed(1, AUTHORIZED, saw={"If-None-Match": '"a"'})]),
    Row("3.5 private is stronger", [reply("private, must-revalidate, max-age=1000")],
        [ran(1, AUTHORIZED), ran(2)]),
)  # fmt: skip

ASKING = tables(
    Row("5.2.1.1 max-age: older is not wanted", [reply("max-age=1000", "Age: 500")],
        [ran(1), ran(2, "Cache-Control: max-age=400"), hit(2)]),
    Row("5.2.1.1 max-age: younger is enough", [reply("max-age=1000", "Age: 500")],
        [ran(1), hit(1, "Cache-Control: max-age=600")]),
    Row("5.2.1.1 max-age=0 asks the application",
        [current("max-age=1000", 'ETag: "a"', "Age: 1", content="same")],
        [SAME, SAME.but(lines=("Cache-Control: max-age=0",))]),
    Row("5.2.1.1 max-age does not make stale fresh", [reply(*STALE)],
        [ran(1), ran(2, "Cache-Control: max-age=9000")]),
    Row("5.2.1.2 max-stale: any", [reply(*STALE)], [ran(1), hit(1, "Cache-Control: max-stale")]),
    Row("5.2.1.2 max-stale: not staler than", [reply(*STALE)],
        [ran(1), hit(1, "Cache-Control: max-stale=1500"), ran(2, "Cache-Control: max-stale=500")]),
    Row("5.2.1.2 max-stale in capitals", [reply(*STALE)],
        [ran(1), hit(1, "cache-control: MAX-STALE=1500")]),
    Row("5.2.1.2 max-stale shows its age", [reply(*STALE)],
        [ran(1), hit(1, "Cache-Control: max-stale", age=2000)]),
    Row("5.2.1.3 min-fresh: not fresh for long enough", [reply("max-age=1000", "Age: 500")],
        [ran(1), ran(2, "Cache-Control: min-fresh=600")]),
    Row("5.2.1.3 min-fresh: fresh for long enough", [reply("max-age=1000", "Age: 500")],
        [ran(1), hit(1, "Cache-Control: min-fresh=400")]),
    Row("5.2.1.4 no-cache passes the store by, and fills it", [FRESH],
        [ran(1), ran(2, "Cache-Control: no-cache"), hit(2)]),
    Row("5.2.1.4 no-cache asks the application, and freshens",
        [current("max-age=1000", 'ETag: "a"', content="same")],
        [SAME, SAME.but(lines=("Cache-Control: no-cache",)), SAME.but(asks=0)]),
    Row("5.2.1.5 no-store: the response is not stored", [FRESH],
        [ran(1, "Cache-Control: no-store"), ran(2), hit(2)]),
    Row("5.2.1.5 no-store leaves alone what is stored", [FRESH],
        [ran(1), ran(2, "Cache-Control: no-store"), hit(1)]),
    Row("5.2.1.7 only-if-cached: nothing is there", [FRESH],
        [refused("Cache-Control: only-if-cached"), ran(1)]),
    Row("5.2.1.7 only-if-cached: it is there", [FRESH],
        [ran(1), hit(1, "Cache-Control: only-if-cached")]),
    Row("5.2.1.7 only-if-cached: it is stale", [reply(*STALE)],
        [ran(1), refused("Cache-Control: only-if-cached")]),
    Row("5.2.1.7 only-if-cached, stale is accepted", [reply(*STALE)],
        [ran(1), hit(1, "Cache-Control: only-if-cached, max-stale")]),
    Row("5.2.1.7 only-if-cached with max-age", [reply("max-age=1000", "Age: 500")],
        [ran(1), refused("Cache-Control: only-if-cached, max-age=100")]),
    Row("5.2.1.7 only-if-cached: another variant is no answer",
        [reply("max-age=1000", "Vary: Accept-Language")],
        [ran(1, "Accept-Language: de"),
         refused("Accept-Language: fr", "Cache-Control: only-if-cached")]),
    Row("5.2.3 unknown directives are ignored", [FRESH],
        [ran(1), hit(1, 'Cache-Control: frobnicate="no-cache", x=y')]),
    Row("5.4 Pragma: no-cache", [FRESH], [ran(1), ran(2, "Pragma: no-cache"), hit(2)]),
    Row("5.4 Cache-Control beside it counts", [FRESH],
        [ran(1), hit(1, "Pragma: no-cache", "Cache-Control: max-age=9000")]),
    Row("5.4 Pragma of a response means nothing", [reply("max-age=1000", "Pragma: no-cache")],
        [ran(1), hit(1)]),
    Row("5.2 directives of requests are passed on", [FRESH],
        [ran(1, "Cache-Control: no-cache, x=y", saw={"Cache-Control": "no-cache, x=y"})]),
)  # fmt: skip

ANSWERING = tables(
    Row("5.1 an invalid Age is ignored", [reply("max-age=1000", "Age: abc")], [ran(1), hit(1)]),
    Row("5.1 a negative Age is ignored", [reply("max-age=1000", "Age: -1")], [ran(1), hit(1)]),
    Row("5.1 of several Age lines the first counts",
        [reply("max-age=1000", "Age: 5000", "Age: 10")], [ran(1), ran(2)]),
    Row("5.2 names of directives have no case", [reply("MAX-AGE=1000, No-Transform")],
        [ran(1), hit(1)]),
    Row("5.2 arguments may be quoted", [reply('max-age="1000"')], [ran(1), hit(1)]),
    Row("5.2 quoted commas do not divide", [reply('x="a, no-store", max-age=1000')],
        [ran(1), hit(1)]),
    Row("5.2 empty members do not count", [reply(", ,max-age=1000,,")], [ran(1), hit(1)]),
    Row("5.2 directives of responses are passed on", [reply("max-age=1000, x=y")],
        [ran(1, fields={"Cache-Control": "max-age=1000, x=y"}),
         hit(1, fields={"Cache-Control": "max-age=1000, x=y"})]),
    Row("5.2.2.2 must-revalidate: not even with max-stale",
        [reply(*STALE, "Cache-Control: must-revalidate")],
        [ran(1), ran(2, "Cache-Control: max-stale")]),
    Row("5.2.2.2 must-revalidate: fresh is fresh", [reply("max-age=1000, must-revalidate")],
        [ran(1), hit(1)]),
    Row("5.2.2.3 must-understand: an unknown status is not stored",
        [reply("max-age=1000, must-understand", status=299)],
        [ran(1, status=299), ran(2, status=299)]),
    Row("5.2.2.3 must-understand overrules no-store",
        [reply("max-age=1000, must-understand, no-store")], [ran(1), hit(1)]),
    Row("5.2.2.3 must-understand with no-store and an unknown status",
        [reply("max-age=1000, must-understand, no-store", status=299)],
        [ran(1, status=299), ran(2, status=299)]),
    Row("5.2.2.4 no-cache has to be validated each time",
        [current("max-age=1000, no-cache", 'ETag: "a"')],
        [ran(1), renewed(1, saw={"If-None-Match": '"a"'}), renewed(1)]),
    Row("5.2.2.4 no-cache without validators", [reply("max-age=1000, no-cache")],
        [ran(1), ran(2)]),
    Row("5.2.2.4 no-cache: not even with max-stale", [reply("max-age=1000, no-cache")],
        [ran(1), ran(2, "Cache-Control: max-stale")]),
    Row("5.2.2.4 no-cache with names leaves these fields out",
        [reply('max-age=1000, no-cache="x-secret, X-Other"', "X-Secret: 1", "X-Other: 2",
               "X-Open: 3")],
        [ran(1, fields={"X-Secret": "1", "X-Other": "2"}),
         hit(1, fields={"X-Secret": None, "X-Other": None, "X-Open": "3"})]),
    Row("5.2.2.5 no-store in capitals", [reply("NO-STORE, max-age=1000")], [ran(1), ran(2)]),
    Row("5.2.2.7 private with names leaves these fields out",
        [reply('max-age=1000, private="Set-Cookie"', "Set-Cookie: a=b", "X-Open: 3")],
        [ran(1, fields={"Set-Cookie": "a=b"}),
         hit(1, fields={"Set-Cookie": None, "X-Open": "3"})]),
    Row("5.2.2.8 proxy-revalidate: not even with max-stale",
        [reply(*STALE, "Cache-Control: proxy-revalidate")],
        [ran(1), ran(2, "Cache-Control: max-stale")]),
    Row("5.2.2.10 s-maxage forbids stale responses", [reply("s-maxage=1000", "Age: 2000")],
        [ran(1), ran(2, "Cache-Control: max-stale")]),
    Row("5.2.2.10 s-maxage overrides max-age", [reply("max-age=10, s-maxage=1000", "Age: 500")],
        [ran(1), hit(1)]),
    Row("5.2.2.10 and where it is shorter", [reply("max-age=1000, s-maxage=10", "Age: 500")],
        [ran(1), ran(2)]),
    Row("5.2.2.10 and Expires", [reply("s-maxage=1000", "Expires: {now-1000}")], [ran(1), hit(1)]),
    Row("5.3 Expires in the past", [reply("Expires: {now-10}")], [ran(1), ran(2)]),
    Row("5.3 Expires: 0 means expired", [reply("Expires: 0", "Last-Modified: {now-1000000}")],
        [ran(1), ran(2)]),
    Row("5.3 an invalid Expires means expired", [reply("Expires: soon")], [ran(1), ran(2)]),
    Row("5.3 max-age overrides Expires", [reply("max-age=1000", "Expires: {now-1000}")],
        [ran(1), hit(1)]),
    Row("5.3 and where it is shorter", [reply("max-age=0", "Expires: {now+1000}")],
        [ran(1), ran(2)]),
)  # fmt: skip


@pytest.mark.parametrize("row", KEYS + STORING + FIELDS + AUTHORIZATION + ASKING + ANSWERING)
def test_rfc9111(rfc9111: Site, row: Row) -> None:
    run(rfc9111, row)


def test_2_both_forms_of_a_target_are_one(rfc9111: Site) -> None:
    name = rfc9111.origin.new_name()
    rfc9111.origin.script(name, FRESH)
    assert rfc9111.server.ask(f"/{name}").text == f"/{name} v1"
    with Client(rfc9111.server.address()) as client:
        response = client.send(request("GET", f"http://test/{name}")).response()
    assert response.text == f"/{name} v1"
    assert rfc9111.origin.count(name) == 1


def test_2_pipelined_hits_come_in_order(rfc9111: Site) -> None:
    names = [rfc9111.origin.new_name() for _ in range(4)]
    for name in names:
        rfc9111.origin.script(name, FRESH)
    rfc9111.server.ask(f"/{names[0]}")
    rfc9111.server.ask(f"/{names[2]}")
    with Client(rfc9111.server.address()) as client:  # hit, miss, hit, miss
        for _ in range(2):
            client.send(b"".join(request("GET", f"/{name}") for name in names))
            for name in names:
                assert client.response().text == f"/{name} v1"
    assert [rfc9111.origin.count(name) for name in names] == [1, 1, 1, 1]


def test_2_http_1_0_gets_what_is_stored(rfc9111: Site) -> None:
    name = rfc9111.origin.new_name()
    rfc9111.origin.script(name, FRESH)
    for _ in range(2):
        response = rfc9111.server.ask(f"/{name}", version="1.0")
        assert response.text == f"/{name} v1"
        assert response.is_last
    assert rfc9111.origin.count(name) == 1
