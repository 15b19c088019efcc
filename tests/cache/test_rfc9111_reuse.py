"""RFC 9111, section 4: when a stored response answers, how it is revalidated, what invalidates it.
How rows are read: test_rfc9111.py.
"""

import pytest
from origin import (
    Row,
    Site,
    current,
    hit,
    not_modified,
    posted,
    present,
    ran,
    renewed,
    reply,
    run,
    tables,
)

FRESH = reply("max-age=1000")
STALE = ("max-age=1000", "Age: 2000")
DE, EN = "Accept-Language: de", "Accept-Language: en"
BY_LANGUAGE = reply("max-age=1000", "Vary: Accept-Language")

REUSE = tables(
    Row("4 a stored response has an Age", [FRESH], [ran(1), hit(1, age=0)]),
    Row("4 it replaces the one that came", [reply("max-age=1000", "Age: 300")],
        [ran(1, fields={"Age": "300"}), hit(1, age=300)]),
    Row("4 unsafe requests are written through", [FRESH],
        [ran(1), posted(), ran(3), posted(method="PUT"), ran(5), posted(method="DELETE")]),
    Row("4 HEAD is answered from a stored GET", [reply("max-age=1000", "X-Any: thing")],
        [ran(1), hit(1, method="HEAD", content=b"",
                     fields={"Content-Length": present, "X-Any": "thing"})]),
    Row("4 OPTIONS is not answered from a stored GET", [FRESH],
        [ran(1), posted(method="OPTIONS"), hit(1)]),
)  # fmt: skip

VARY = tables(
    Row("4.1 the same value matches", [BY_LANGUAGE], [ran(1, DE), hit(1, DE)]),
    Row("4.1 another value does not, and both are kept", [BY_LANGUAGE],
        [ran(1, DE), ran(2, EN), hit(1, DE), hit(2, EN)]),
    Row("4.1 absent does not match present", [BY_LANGUAGE],
        [ran(1), ran(2, DE), hit(1), hit(2, DE)]),
    Row("4.1 absent does not match empty", [BY_LANGUAGE], [ran(1), ran(2, "Accept-Language:")]),
    Row("4.1 white space does not count", [BY_LANGUAGE],
        [ran(1, "Accept-Language: de, en"), hit(1, "Accept-Language: de,en"),
         hit(1, "Accept-Language: de ,  en")]),
    Row("4.1 several lines are one list", [BY_LANGUAGE],
        [ran(1, "Accept-Language: de, en"), hit(1, DE, EN)]),
    Row("4.1 the order of several lines counts", [BY_LANGUAGE], [ran(1, DE, EN), ran(2, EN, DE)]),
    Row("4.1 names of fields have no case", [reply("max-age=1000", "Vary: ACCEPT-language")],
        [ran(1, DE), hit(1, "accept-LANGUAGE: de"), ran(2, EN)]),
    Row("4.1 several names", [reply("max-age=1000", "Vary: Accept-Language, X-Any")],
        [ran(1, DE, "X-Any: 1"), ran(2, DE, "X-Any: 2"), hit(1, DE, "X-Any: 1"), ran(3, DE)]),
    Row("4.1 several Vary lines", [reply("max-age=1000", "Vary: Accept-Language", "Vary: X-Any")],
        [ran(1, DE, "X-Any: 1"), ran(2, DE, "X-Any: 2"), ran(3, EN, "X-Any: 1"),
         hit(1, DE, "X-Any: 1")]),
    Row("4.1 the case of unknown fields' values counts", [reply("max-age=1000", "Vary: X-Any")],
        [ran(1, "X-Any: a"), ran(2, "X-Any: A")]),
    Row("4.1 cookies", [reply("max-age=1000", "Vary: Cookie")],
        [ran(1, "Cookie: a=1"), ran(2, "Cookie: a=2"), hit(1, "Cookie: a=1"), ran(3)]),
    Row("4.1 * never matches", [reply("max-age=1000", "Vary: *")], [ran(1), ran(2)]),
    Row("4.1 * among names", [reply("max-age=1000", "Vary: Accept-Language, *")],
        [ran(1, DE), ran(2, DE)]),
    Row("4.1 * in a second line", [reply("max-age=1000", "Vary: Accept", "Vary: *")],
        [ran(1), ran(2)]),
    Row("4.1 an empty Vary varies by nothing", [reply("max-age=1000", "Vary: ")],
        [ran(1), hit(1, DE)]),
    Row("4.1 HEAD chooses its variant", [BY_LANGUAGE],
        [ran(1, DE), hit(1, DE, method="HEAD"), ran(2, EN, method="HEAD")]),
    Row("4.1 one variant's revalidation is not another's",
        [reply(*STALE, "Vary: Accept-Language", 'ETag: "de"'),
         reply("max-age=1000", "Vary: Accept-Language", 'ETag: "en"'),
         reply("max-age=1000", "Vary: Accept-Language", 'ETag: "de2"')],
        [ran(1, DE), ran(2, EN), ran(3, DE, saw={"If-None-Match": lambda v: '"de"' in (v or "")}),
         hit(2, EN), hit(3, DE)]),
)  # fmt: skip

FRESHNESS = tables(
    Row("4.2 younger than its lifetime", [reply("max-age=1000", "Age: 900")], [ran(1), hit(1)]),
    Row("4.2 as old as its lifetime", [reply("max-age=1000", "Age: 1000")], [ran(1), ran(2)]),
    Row("4.2 older", [reply(*STALE)], [ran(1), ran(2)]),
    Row("4.2 a date's case does not count", [reply("Expires: thu, 01 jan 2099 00:00:00 gmt")],
        [ran(1), hit(1)]),
    Row("4.2 RFC 850 dates", [reply("Expires: {rfc850+1000}")], [ran(1), hit(1)]),
    Row("4.2 RFC 850 dates in the past", [reply("Expires: {rfc850-1000}")], [ran(1), ran(2)]),
    Row("4.2 asctime dates", [reply("Expires: {asctime+1000}")], [ran(1), hit(1)]),
    Row("4.2 asctime dates in the past", [reply("Expires: {asctime-1000}")], [ran(1), ran(2)]),
    Row("4.2 two digits of a year more than 50 years ahead are in the past",
        [reply("Expires: Sunday, 06-Nov-94 08:49:37 GMT")], [ran(1), ran(2)]),
    Row("4.2 other zones are not valid", [reply("Expires: Thu, 01 Jan 2099 00:00:00 EST")],
        [ran(1), ran(2)]),
    Row("4.2.1 Expires minus Date", [reply("Date: {now-500}", "Expires: {now+500}")],
        [ran(1), hit(1, age=500)]),
    Row("4.2.1 Expires minus Date, whatever the clock says",
        [reply("Date: {now+5000}", "Expires: {now+5000}")], [ran(1), ran(2)]),
    Row("4.2.1 s-maxage, max-age, Expires in this order",
        [reply("max-age=10, s-maxage=1000", "Expires: {now-1}", "Age: 500")], [ran(1), hit(1)]),
    Row("4.2.1 of repeated directives a longer one behind does not count",
        [reply("max-age=0, max-age=1000")], [ran(1), ran(2)]),
    Row("4.2.1 of two Expires a later one behind does not count",
        [reply("Expires: {now-1000}", "Expires: {now+1000}")], [ran(1), ran(2)]),
    Row("4.2.1 conflicting directives: the strictest counts", [reply("max-age=1000, no-cache")],
        [ran(1), ran(2)]),
    Row("4.2.1 an invalid max-age makes it stale", [reply("max-age=abc", "Expires: {now+1000}")],
        [ran(1), ran(2)]),
    Row("4.2.1 so does a negative one", [reply("max-age=-1", "Expires: {now+1000}")],
        [ran(1), ran(2)]),
    Row("4.2.1 and one with a fraction", [reply("max-age=1000.5")], [ran(1), ran(2)]),
    Row("1.2.2 a number too large is a large number", [reply("max-age=99999999999999999999")],
        [ran(1), hit(1)]),
    Row("1.2.2 an Age too large is old", [reply("max-age=1000", "Age: 99999999999999999999")],
        [ran(1), ran(2)]),
    Row("4.2.2 heuristics by Last-Modified", [reply("Last-Modified: {now-1000000}")],
        [ran(1), hit(1)]),
    Row("4.2.2 not when modified just now", [reply("Last-Modified: {now}")], [ran(1), ran(2)]),
    Row("4.2.2 not with an explicit lifetime", [reply("max-age=0", "Last-Modified: {now-1000000}")],
        [ran(1), ran(2)]),
    Row("4.2.2 not with an Expires", [reply("Expires: 0", "Last-Modified: {now-1000000}")],
        [ran(1), ran(2)]),
    Row("4.2.2 not longer than a part of the time since",
        [reply("Last-Modified: {now-2000}", "Date: {now-1500}")], [ran(1), ran(2)]),
    Row("4.2.2 not with a query", [reply("Last-Modified: {now-1000000}")],
        [ran(1, path="?a"), ran(2, path="?a")]),
    Row("4.2.3 an old Date is an age", [reply("max-age=1000", "Date: {now-300}")],
        [ran(1), hit(1, age=300)]),
    Row("4.2.3 the larger one counts: Age", [reply("max-age=1000", "Date: {now-300}", "Age: 500")],
        [ran(1), hit(1, age=500)]),
    Row("4.2.3 the larger one counts: Date", [reply("max-age=1000", "Date: {now-300}", "Age: 100")],
        [ran(1), hit(1, age=300)]),
    Row("4.2.3 a Date to come is no age", [reply("max-age=1000", "Date: {now+300}")],
        [ran(1), hit(1, age=0)]),
    Row("4.2.3 so old that it is stale", [reply("max-age=1000", "Date: {now-2000}")],
        [ran(1), ran(2)]),
)  # fmt: skip

VALIDATION = tables(
    Row("4.3.1 the entity tag is sent",
        [current(*STALE, 'ETag: "a"', fields_304=[["Cache-Control", "max-age=1000"],
                                                  ["ETag", '"a"']])],
        [ran(1, saw={"If-None-Match": None}), renewed(1, saw={"If-None-Match": '"a"'}), hit(1)]),
    Row("4.3.1 a weak one too",
        [current(*STALE, 'ETag: W/"a"', fields_304=[["Cache-Control", "max-age=1000"],
                                                    ["ETag", 'W/"a"']])],
        [ran(1), renewed(1, saw={"If-None-Match": 'W/"a"'}), hit(1)]),
    Row("4.3.1 the date of the last modification is sent, to the letter",
        [current(*STALE, "Last-Modified: {now-5000}",
                 fields_304=[["Cache-Control", "max-age=1000"]])],
        [ran(1), renewed(1, saw={"If-Modified-Since": present, "If-None-Match": None}), hit(1)]),
    Row("4.3.1 both are sent",
        [current(*STALE, 'ETag: "a"', "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT")],
        [ran(1), renewed(1, saw={"If-None-Match": '"a"',
                                 "If-Modified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"})]),
    Row("4.3.1 without validators nothing is sent", [reply(*STALE)],
        [ran(1), ran(2, saw={"If-None-Match": None, "If-Modified-Since": None})]),
    Row("4.3.1 the client's other fields are", [reply(*STALE, 'ETag: "a"')],
        [ran(1), ran(2, "X-Any: thing", DE, saw={"X-Any": "thing", "Accept-Language": "de"})]),
    Row("4.3.3 a full response replaces what is stored",
        [reply(*STALE, 'ETag: "a"'), reply("max-age=1000", 'ETag: "b"')],
        [ran(1), ran(2, fields={"ETag": '"b"'}), hit(2, fields={"ETag": '"b"'})]),
    Row("4.3.3 also one of another status",
        [reply(*STALE, 'ETag: "a"'), reply("max-age=1000", status=404)],
        [ran(1), ran(2, status=404), hit(2, status=404)]),
    Row("4.3.3 one that may not be stored is used all the same",
        [reply(*STALE, 'ETag: "a"'), reply("no-store"), FRESH], [ran(1), ran(2), ran(3), hit(3)]),
    Row("4.3.3 an error is passed on",
        [reply(*STALE, 'ETag: "a"'), reply(status=503), FRESH],
        [ran(1), ran(2, status=503), ran(3)]),
    Row("4.3.4 a 304 makes it fresh",
        [reply(*STALE, 'ETag: "a"'), not_modified("max-age=1000", 'ETag: "a"')],
        [ran(1), renewed(1), hit(1, age=0)]),
    Row("4.3.4 with the age of the 304",
        [reply(*STALE, 'ETag: "a"'), not_modified("max-age=1000", 'ETag: "a"', "Age: 400")],
        [ran(1), renewed(1), hit(1, age=400)]),
    Row("4.3.4 a 304 that forbids storing from now on",
        [reply(*STALE, 'ETag: "a"'), not_modified("no-cache", 'ETag: "a"')],
        [ran(1), renewed(1), renewed(1), renewed(1)]),
    Row("4.3.4 a 304 with a new lifetime that is over",
        [reply(*STALE, 'ETag: "a"'), not_modified("max-age=10", 'ETag: "a"', "Age: 20"),
         reply("max-age=1000", 'ETag: "b"')],
        [ran(1), renewed(1), ran(3), hit(3)]),
    Row("4.3.4 a 304 by Last-Modified",
        [reply(*STALE, "Last-Modified: {now-5000}"),
         not_modified("max-age=1000", "Last-Modified: {now-5000}")],
        [ran(1), renewed(1), hit(1)]),
    Row("4.3.5 a HEAD that shows another version makes it stale",
        [reply("max-age=1000", 'ETag: "a"'), reply("max-age=1000", 'ETag: "b"')],
        [ran(1), ran(2, "Cache-Control: no-cache", method="HEAD"), ran(3)]),
)  # fmt: skip

ELSEWHERE = "http://elsewhere/{name}/other"
INVALIDATION = tables(
    *(
        Row(f"4.4 {method} invalidates", [FRESH], [ran(1), posted(method=method), ran(3), hit(3)])
        for method in ("POST", "PUT", "DELETE", "PATCH", "FROBNICATE")
    ),
    *(
        Row(f"4.4 {status} is success", [FRESH, reply(status=status), FRESH],
            [ran(1), posted(status=status), ran(3), hit(3)])
        for status in (201, 204, 303, 307)
    ),
    *(
        Row(f"4.4 {status} is none", [FRESH, reply(status=status)],
            [ran(1), posted(status=status), hit(1)])
        for status in (400, 404, 500)
    ),
    *(
        Row(f"4.4 {method} is safe", [FRESH], [ran(1), posted(method=method), hit(1)])
        for method in ("OPTIONS", "QUERY")
    ),
    Row("4.4 all variants go", [BY_LANGUAGE],
        [ran(1, DE), ran(2, EN), posted(), ran(4, DE), ran(5, EN)]),
    Row("4.4 other paths stay", [FRESH], [ran(1, path="/a"), posted(path="/b"), hit(1, path="/a")]),
    Row("4.4 other queries stay", [FRESH],
        [ran(1, path="?a"), posted(path="?b"), hit(1, path="?a")]),
    Row("4.4 an equivalent target is the same", [FRESH],
        [ran(1, path="/~a"), posted(path="/%7ea", host="TEST:80"), ran(3, path="/~a")]),
    *(
        Row(f"4.4 {field} goes: {form}",
            [FRESH, reply(f"{field}: {place}", status=201), FRESH],
            [ran(1, path="/other"), posted(status=201), ran(3, path="/other")])
        for field in ("Location", "Content-Location")
        for form, place in (("absolute", "http://TEST:80/{name}/other"),
                            ("a path", "/{name}/other"), ("relative", "{name}/x/../other"))
    ),
    *(
        Row(f"4.4 {field} of another origin stays",
            [FRESH, reply(f"{field}: {ELSEWHERE}", status=201)],
            [ran(1, path="/other", host="elsewhere"), posted(status=201),
             hit(1, path="/other", host="elsewhere")])
        for field in ("Location", "Content-Location")
    ),
    Row("4.4 Location of a GET invalidates nothing",
        [FRESH, reply("Location: /{name}/other", status=302)],
        [ran(1, path="/other"), ran(2, status=302), hit(1, path="/other")]),
    Row("4.4 Location of an error invalidates nothing",
        [FRESH, reply("Location: /{name}/other", status=409)],
        [ran(1, path="/other"), posted(status=409), hit(1, path="/other")]),
    Row("4.4 an unsafe request of another origin leaves it alone", [FRESH],
        [ran(1), posted(host="elsewhere"), hit(1)]),
)  # fmt: skip


@pytest.mark.parametrize("row", REUSE + VARY + FRESHNESS + VALIDATION + INVALIDATION)
def test_rfc9111(rfc9111: Site, row: Row) -> None:
    run(rfc9111, row)


def test_4_3_4_another_strong_validator_updates_nothing(rfc9111: Site) -> None:
    name = rfc9111.origin.new_name()
    answers = [
        reply(*STALE, 'ETag: "a"'),
        not_modified("max-age=1000", 'ETag: "b"', "X-Wrong: 1"),
        reply("max-age=1000", 'ETag: "c"'),
    ]
    rfc9111.origin.script(name, *answers)
    rfc9111.server.ask(f"/{name}")
    rfc9111.server.ask(f"/{name}")  # whatever comes of it
    response = rfc9111.server.ask(f"/{name}")
    assert (response.text, response.one("X-Wrong")) == (f"/{name} v3", None)
