"""What stands in Cache-Control, targeted fields, dates and groups."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from cache_lines import NOW, asks, date, lines, request, response, says

from kernelq import _coretest

DELTA_MAX = _coretest.CACHE_BOUNDS["delta"]
ENDLESS = 0xFFFFFFFF

# ---- Cache-Control of responses (RFC 9111 §5.2.2) ----


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", {}),
        ("max-age=10", {"max-age": 10}),
        ("Max-AGE=10", {"max-age": 10}),
        ('max-age="10"', {"max-age": 10}),
        ("max-age=010", {"max-age": 10}),
        ("max-age=2147483647", {"max-age": 2147483647}),
        ("max-age=2147483648", {"max-age": DELTA_MAX}),
        ("max-age=" + "9" * 400, {"max-age": DELTA_MAX}),
        ("max-age=18446744073709551617", {"max-age": DELTA_MAX}),
        # Invalid freshness is to be taken for stale (RFC 9111 §4.2.1).
        ("max-age", {"max-age": 0}),
        ("max-age=", {"max-age": 0}),
        ("max-age=-1", {"max-age": 0}),
        ("max-age=1.5", {"max-age": 0}),
        ("max-age=10s", {"max-age": 0}),
        ("max-age= 10", {"max-age": 0}),
        ("max-age =10", {"max-age": 0}),
        ("max-age='10'", {"max-age": 0}),
        ('max-age="1\\0"', {"max-age": 0}),
        ('max-age="10', {"max-age": 0}),
        ('max-age="10"1', {"max-age": 0}),
        # The first of several.
        ("max-age=10, max-age=20", {"max-age": 10}),
        ("max-age=20, max-age=10", {"max-age": 20}),
        ("max-age=x, max-age=10", {"max-age": 0}),
        ("s-maxage=5, max-age=10", {"s-maxage": 5, "max-age": 10}),
        ("no-store", {"no-store": True}),
        ("no-store=x", {"no-store": True}),
        ("no-store x", {"no-store": True}),
        ("no-cache", {"no-cache": True}),
        ('no-cache=""', {"no-cache": True}),
        ('no-cache=", ,"', {"no-cache": True}),
        ("no-cache=", {"no-cache": True}),
        ('no-cache="a b"', {"no-cache": True}),
        ('no-cache="a', {"no-cache": True}),
        ('no-cache="Set-Cookie, x"', {"no-cache-fields": True}),
        ("no-cache=Set-Cookie", {"no-cache-fields": True}),
        ('no-cache="a", no-cache', {"no-cache": True, "no-cache-fields": True}),
        ("private", {"private": True}),
        ('private="a"', {"private-fields": True}),
        ('private="@"', {"private": True}),
        ("public", {"public": True}),
        # An argument that has no meaning is ignored (RFC 8246 §2 says so of immutable).
        ("public=x", {"public": True}),
        ("immutable=1", {"immutable": True}),
        # What is not well-formed permits nothing.
        ("public x", {}),
        ('immutable="', {}),
        ("must-understand =", {}),
        ("must-revalidate x", {"must-revalidate": True}),
        ("publicx, xpublic, pub-lic", {}),
        (
            "must-revalidate,proxy-revalidate\t,\tmust-understand",
            {"must-revalidate": True, "proxy-revalidate": True, "must-understand": True},
        ),
        ("stale-while-revalidate=5", {"stale-while-revalidate": 5}),
        ("stale-while-revalidate", {"stale-while-revalidate": 0}),
        ("stale-if-error=5", {"stale-if-error": 5}),
        # Of requests, so unknown here.
        ("max-stale, min-fresh=1, only-if-cached", {}),
        ('community=UCI, max-age=1, x="no-store, \', \\""', {"max-age": 1}),
        # Where a quote is never closed, a directive behind it still counts.
        ('x="a, no-store, max-age=3', {"no-store": True, "max-age": 3}),
        (",,max-age=1,, ,", {"max-age": 1}),
        ("=5, max-age=1", {"max-age": 1}),
        ("\xe9, max-age=1", {"max-age": 1}),
    ],
)
def test_cache_control_of_a_response(value: str, expected: dict[str, Any]) -> None:
    assert says(value) == expected


def test_several_lines_are_one_list() -> None:
    assert says("max-age=1", "no-store", "max-age=2") == {"max-age": 1, "no-store": True}
    assert says("", "public") == {"public": True}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("no-cache", {"no-cache": True}),
        ('no-cache="a"', {"no-cache": True}),
        ("max-age=0", {"max-age": 0}),
        ("max-age=x", {"max-age": 0}),
        ("max-stale", {"max-stale": ENDLESS}),
        ("max-stale=5", {"max-stale": 5}),
        ("max-stale=x", {"max-stale": 0}),
        ("max-stale x", {"max-stale": 0}),
        ("min-fresh=7", {"min-fresh": 7}),
        ("no-store, only-if-cached", {"no-store": True, "only-if-cached": True}),
        ("stale-if-error=9", {"stale-if-error": 9}),
        ("public, private, s-maxage=1, must-revalidate, immutable", {}),
    ],
)
def test_cache_control_of_a_request(value: str, expected: dict[str, Any]) -> None:
    assert asks(value) == expected


def test_pragma_counts_without_cache_control_only() -> None:
    assert request("Pragma: no-cache")["directives"] == {"no-cache": True}
    assert request("Pragma: x, No-Cache")["directives"] == {"no-cache": True}
    assert request("Pragma: no-cachex")["directives"] == {}
    assert request("Pragma: no-cache", "Cache-Control: max-age=5")["directives"] == {"max-age": 5}
    assert request("Pragma: no-cache", "Cache-Control:")["directives"] == {}


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        (['Cache-Control: no-cache="a, B"'], b"b", True),
        (['Cache-Control: no-cache="a, B"'], b"c", False),
        (['Cache-Control: private="a"', 'Cache-Control: no-cache="b"'], b"A", True),
        (["Cache-Control: no-cache=Set-Cookie"], b"set-cookie", True),
        (["Cache-Control: no-cache"], b"a", False),
        (['Cache-Control: no-cache="a"'], b"", False),
        (['Cache-Control: no-cache="ab"'], b"a", False),
        (['Cache-Control: x="no-cache=a"'], b"a", False),
        (['Cache-Control: no-cache="a"', "CDN-Cache-Control: max-age=1"], b"a", False),
        (['CDN-Cache-Control: private="a, b"'], b"b", True),
        (["CDN-Cache-Control: private=a"], b"a", True),
        (['CDN-Cache-Control: no-cache=("a" b);x'], b"b", True),
        (['CDN-Cache-Control: no-cache=("a"), no-cache=("b")'], b"a", False),
        (['CDN-Cache-Control: no-cache=("a"), private=("b")'], b"a", True),
        (['Cache-Control: no-cache="a"', "CDN-Cache-Control: max-age=1,"], b"a", True),
    ],
)
def test_fields_named_by_a_directive(values: list[str], name: bytes, expected: bool) -> None:
    assert _coretest.cache_names_field(lines(*values), name) is expected


# ---- targeted fields (RFC 9213, RFC 9651) ----


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("max-age=10", {"max-age": 10}),
        ("max-age=10, public, immutable", {"max-age": 10, "public": True, "immutable": True}),
        (
            'max-age=10;a;b=1.5;c=:YQ==:;d=?0;e=@5;f=%"%c3%a9";g=tok/en:1 \t,\tno-store',
            {"max-age": 10, "no-store": True},
        ),
        ("max-age=999999999999999", {"max-age": DELTA_MAX}),
        # The last one counts; of the wrong type, it is ignored.
        ("max-age=10, max-age=20", {"max-age": 20}),
        ("max-age=10, max-age=x, public", {"public": True}),
        ('max-age="10", public', {"public": True}),
        ("max-age=1.0, public", {"public": True}),
        ("max-age=-1, public", {"public": True}),
        ("max-age=@10, public", {"public": True}),
        ("max-age=(10), public", {"public": True}),
        ("max-age, public", {"public": True}),
        ("no-store=?0, public", {"public": True}),
        ("no-store, no-store=?0, public", {"public": True}),
        ("no-store=?1", {"no-store": True}),
        ("no-store=1, public", {"public": True}),
        ("no-cache", {"no-cache": True}),
        ("no-cache=?0, public", {"public": True}),
        ("no-cache=5, public", {"public": True}),
        ('no-cache="a"', {"no-cache-fields": True}),
        ("no-cache=()", {"no-cache": True}),
        ("no-cache=(a 5)", {"no-cache": True}),
        ('private=( "a";x=1   b );y', {"private-fields": True}),
        ('private="a", private', {"private": True}),
        ("unknown, x*y.z_=1, *a, max-age=1", {"max-age": 1}),
    ],
)
def test_a_targeted_field_replaces_the_others(value: str, expected: dict[str, Any]) -> None:
    for name in ("CDN-Cache-Control", "kernelq-cache-control"):
        found = response(f"{name}: {value}", "Cache-Control: s-maxage=77", f"Expires: {date(NOW)}")
        assert found["directives"] == expected
        assert found["is_targeted"]
        assert found["has_cache_control"]
        assert not found["has_expires"]
        assert found["expires_s"] == -1


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Max-Age=10",
        "max-age=10,",
        ",max-age=10",
        "max-age=10 public",
        "max-age =10",
        "max-age= 10",
        "max-age=",
        "max-age=1000000000000000",
        "max-age=--1",
        "max-age=-",
        "a=1.",
        "a=1.2345",
        "a=1234567890123.1",
        "a=.5",
        'a="\xe9"',
        'a="\\x"',
        'a="x',
        'a="\t"',
        "a='x'",
        "a=:YQ=Q:",
        "a=:YQ===:",
        "a=:Y Q:",
        "a=:YQ",
        "a=?2",
        "a=?",
        "a=@1.5",
        "a=@",
        "a=@x",
        'a=%"%C3%A9"',
        'a=%"%c3"',
        'a=%"%ed%a0%80"',
        'a=%"%c0%80"',
        'a=%"%f4%90%80%80"',
        'a=%"%zz"',
        'a=%"%c',
        "a=%x",
        "a=(b",
        "a=(b c",
        'a=("b""c")',
        "a=(b (c))",
        "a=(b,c)",
        "a;b=(c)",
        "a; ",
        "a;B",
        "a;=1",
        "a=1 ;b",
        "1a",
        "-a",
        "a=1,,b",
        "a=\xff",
    ],
)
def test_an_invalid_targeted_field_is_not_there(value: str) -> None:
    found = response(f"CDN-Cache-Control: {value}", "Cache-Control: max-age=5", "Expires: 0")
    assert found["directives"] == {"max-age": 5}
    assert not found["is_targeted"]
    assert found["has_expires"]


def test_which_targeted_field_counts() -> None:
    cdn, own = "CDN-Cache-Control: max-age=1", "Kernelq-Cache-Control: max-age=2"
    assert response(cdn, own)["directives"] == {"max-age": 2}
    assert response(cdn, "Kernelq-Cache-Control: ?")["directives"] == {"max-age": 1}
    assert response(cdn, "Kernelq-Cache-Control:")["directives"] == {"max-age": 1}


def test_lines_of_a_targeted_field() -> None:
    name = "CDN-Cache-Control"
    assert response(f"{name}: max-age=1", f"{name}: public")["directives"] == {
        "max-age": 1,
        "public": True,
    }
    for first, second in [("max-age=1", ""), ("", "max-age=1"), ("", ""), ("max-age=1", "?")]:
        assert not response(f"{name}: {first}", f"{name}: {second}")["is_targeted"]


# ---- Age and the facts of a response ----


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["5"], 5),
        (["5, 7"], 5),
        (["5", "7"], 5),
        (["x, 7"], 0),
        (["x", "7"], 0),
        (["-5"], 0),
        (["1.5"], 0),
        ([""], 0),
        (["99999999999"], DELTA_MAX),
    ],
)
def test_age(values: list[str], expected: int) -> None:
    assert response(*(f"Age: {value}" for value in values))["age_s"] == expected


def test_facts_of_a_response() -> None:
    found = response(
        "DATE: " + date(NOW),
        "expires: 0",
        "Last-Modified: " + date(NOW - 5),
        'ETag: W/"x"',
        "Vary: a",
        "Set-Cookie: a=b",
        "Location: /x",
        "Content-Location: ",
        "Content-Range: bytes 0-1/2",
        status=404,
    )
    assert (found["date_s"], found["expires_s"], found["modified_s"]) == (NOW, 0, NOW - 5)
    assert (found["etag"], found["modified"]) == (b'W/"x"', date(NOW - 5).encode())
    assert (found["location"], found["content_location"]) == (b"/x", b"")
    for fact in ("has_vary", "has_set_cookie", "has_content_range", "has_expires"):
        assert found[fact]
    assert not found["has_vary_star"]
    assert not found["is_malformed"]
    assert not found["is_targeted"]
    assert found["status"] == 404


def test_facts_of_nothing() -> None:
    found = response()
    assert (found["date_s"], found["expires_s"], found["modified_s"]) == (-1, -1, -1)
    assert (found["etag"], found["modified"], found["location"]) == (b"", b"", None)
    assert not any(found[fact] for fact in found if fact.startswith(("has_", "is_")))


@pytest.mark.parametrize(
    "name", ["Date", "ETag", "Expires", "Last-Modified", "Location", "Content-Location"]
)
def test_what_may_stand_once(name: str) -> None:
    assert response(f"{name}: x", f"{name.upper()}: x")["is_malformed"]


@pytest.mark.parametrize(
    "value", ["x", "", '"', '"a', 'w/"a"', '"a"b', '"a" ', "W/", '"a b"', '"' + "a" * 1023 + '"']
)
def test_what_is_no_entity_tag(value: str) -> None:
    pair = (b"ETag", value.encode())
    assert _coretest.cache_response([pair])["etag"] == b""


@pytest.mark.parametrize("value", ['""', 'W/""', '"\xe9,\\"', '"' + "a" * 1022 + '"'])
def test_entity_tags(value: str) -> None:
    assert response(f"ETag: {value}")["etag"] == value.encode("latin-1")


@pytest.mark.parametrize(
    ("value", "has_vary", "has_star"),
    [
        ("", False, False),
        (" , ,", False, False),
        ("a, B", True, False),
        ("*", True, True),
        ("a, *", True, True),
        ("a b", True, True),
        ("a;b", True, True),
        ("a*", True, False),
    ],
)
def test_vary(value: str, has_vary: bool, has_star: bool) -> None:
    found = response(f"Vary: {value}")
    assert (found["has_vary"], found["has_vary_star"]) == (has_vary, has_star)


def test_facts_of_a_request() -> None:
    found = request(
        'If-None-Match: "a"',
        "If-Modified-Since: x",
        "Range: bytes=0-1",
        'If-Range: "b"',
        "Authorization: x",
        "Host: a",
    )
    assert found["if_none_match"] == b'"a"'
    assert found["if_modified_since"] == b"x"
    assert (found["range"], found["if_range"]) == (b"bytes=0-1", b'"b"')
    assert found["has_authorization"]
    assert not found["has_preconditions"]
    assert not found["is_odd"]
    assert request("Range:")["range"] == b""
    assert request()["range"] is None
    for name in ("If-Match", "If-Unmodified-Since"):
        assert request(f"{name}: x")["has_preconditions"]
    for name in ("If-None-Match", "If-Modified-Since", "Range", "If-Range"):
        assert request(f"{name}: x", f"{name}: x")["is_odd"]


# ---- dates (RFC 9110 §5.6.7) ----


def stamp(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp())  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", stamp(1994, 11, 6, 8, 49, 37)),
        ("Sunday, 06-Nov-94 08:49:37 GMT", stamp(1994, 11, 6, 8, 49, 37)),
        ("Sun Nov  6 08:49:37 1994", stamp(1994, 11, 6, 8, 49, 37)),
        ("Sun Nov 16 08:49:37 1994", stamp(1994, 11, 16, 8, 49, 37)),
        ("SUN, 06 nOV 1994 08:49:37 gmt", stamp(1994, 11, 6, 8, 49, 37)),
        ("Sun, 06 Nov 1994 08:49:37 UTC", stamp(1994, 11, 6, 8, 49, 37)),
        ("Mon, 06 Nov 1994 08:49:37 GMT", stamp(1994, 11, 6, 8, 49, 37)),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799),
        ("Tue, 29 Feb 2000 00:00:00 GMT", stamp(2000, 2, 29)),
        ("Mon, 29 Feb 2100 00:00:00 GMT", -1),
        ("Sat, 31 Dec 2016 23:59:60 GMT", stamp(2017, 1, 1)),
        ("Sat, 31 Dec 2016 22:59:60 GMT", -1),
        ("Sun, 31 Apr 1994 08:49:37 GMT", -1),
        ("Sun, 00 Nov 1994 08:49:37 GMT", -1),
        ("Sun, 06 Nov 1994 24:00:00 GMT", -1),
        ("Sun, 06 Nov 1994 08:60:00 GMT", -1),
        ("Sun, 06 Nov 1994 08:49:37 EST", -1),
        ("Sun, 06 Nov 1994 08:49:37 +0000", -1),
        ("Sun, 6 Nov 1994 08:49:37 GMT", -1),
        ("Sun,  6 Nov 1994 08:49:37 GMT", -1),
        ("Sun 06 Nov 1994 08:49:37 GMT", -1),
        ("Sun, 06-Nov-1994 08:49:37 GMT", -1),
        ("Xyz, 06 Nov 1994 08:49:37 GMT", -1),
        ("Sun, 06-Nov-94 08:49:37 GMT", -1),
        ("Sunday, 06 Nov 94 08:49:37 GMT", -1),
        ("Sun Nov 06 08:49:37 1994 GMT", -1),
        ("Sun, 06 Nov 1994 08:49:37 GMT, x", -1),
        ("784111777", -1),
        ("0", -1),
        ("", -1),
    ],
)
def test_dates(text: str, expected: int) -> None:
    assert _coretest.cache_read_date(text.encode(), NOW) == expected


@pytest.mark.parametrize(
    ("now", "text", "year"),
    [
        (stamp(2026, 1, 1), "Sunday, 06-Nov-26 08:49:37 GMT", 2026),
        (stamp(2026, 1, 1), "Sunday, 06-Nov-75 08:49:37 GMT", 2075),
        (stamp(2026, 11, 6, 8, 49, 37), "Sunday, 06-Nov-76 08:49:37 GMT", 2076),
        (stamp(2026, 11, 6, 8, 49, 36), "Sunday, 06-Nov-76 08:49:37 GMT", 1976),
        (stamp(2026, 1, 1), "Sunday, 06-Nov-99 08:49:37 GMT", 1999),
        (stamp(2099, 1, 1), "Sunday, 06-Nov-00 08:49:37 GMT", 2000),
    ],
)
def test_years_of_two_digits(now: int, text: str, year: int) -> None:
    assert _coretest.cache_read_date(text.encode(), now) == stamp(year, 11, 6, 8, 49, 37)


def test_two_digits_before_1970() -> None:
    assert _coretest.cache_read_date(b"Sunday, 06-Nov-69 08:49:37 GMT", 0) == -1
    assert _coretest.cache_read_date(b"Sunday, 06-Nov-69 08:49:37 GMT", stamp(2010, 1, 1)) == -1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (0, b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (784111777, b"Sun, 06 Nov 1994 08:49:37 GMT"),
        (951782400, b"Tue, 29 Feb 2000 00:00:00 GMT"),
        (253402300799, b"Fri, 31 Dec 9999 23:59:59 GMT"),
        (2**62, b"Fri, 31 Dec 9999 23:59:59 GMT"),
    ],
)
def test_dates_written(seconds: int, text: bytes) -> None:
    assert _coretest.cache_put_date(seconds) == text
