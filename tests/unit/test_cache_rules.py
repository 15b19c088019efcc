"""What may be stored, for how long, and when it may answer a request."""

from __future__ import annotations

import pytest
from cache_lines import NOW, date, lines

from kernelq import _coretest

DAY = 86400
HEURISTIC = {200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}


def is_storable(*texts: str, request: tuple[str, ...] = (), **options: object) -> bool:
    found: bool = _coretest.cache_is_storable(lines(*texts), lines(*request), **options)
    return found


def lifetime(*texts: str, **options: object) -> int:
    found: int = _coretest.cache_lifetime(lines(*texts), now_s=NOW, **options)
    return found


def reuse(stored: str, asked: str, age: int, *more: str) -> str:
    answer: str = _coretest.cache_reuse(
        lines(f"Cache-Control: {stored}", *more),
        lines(f"Cache-Control: {asked}") if asked else [],
        age,
        now_s=NOW,
    )
    return answer


# ---- storing (RFC 9111 §3) ----


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], True),  # 200 is heuristically cacheable
        (["Cache-Control: max-age=1"], True),
        (["Cache-Control: no-store"], False),
        (["Cache-Control: private"], False),
        (["Cache-Control: private, max-age=5"], False),
        (['Cache-Control: private="a", max-age=5'], True),
        (['Cache-Control: no-cache="a", max-age=5'], True),
        # To be validated always: only with something to validate it by.
        (["Cache-Control: no-cache"], False),
        (["Cache-Control: no-cache", 'ETag: "a"'], True),
        (["Cache-Control: no-cache", "ETag: a"], False),
        (["Cache-Control: no-cache", f"Last-Modified: {date(NOW)}"], True),
        (["Vary: *"], False),
        (["Vary: a b"], False),
        (["Vary: a"], True),
        (["Content-Range: bytes 0-1/2"], False),
        (["Expires: 0", "Expires: 0"], False),
        (["Set-Cookie: a=b"], True),
        (["Cache-Control: no-store, must-understand"], True),
        (["Cache-Control: no-store", "CDN-Cache-Control: max-age=5"], True),
        (["Cache-Control: max-age=5", "CDN-Cache-Control: no-store"], False),
    ],
)
def test_storing(values: list[str], expected: bool) -> None:
    assert is_storable(*values) is expected
    assert not is_storable(*values, mode="off")
    assert not is_storable(*values, request=("Cache-Control: no-store",))


@pytest.mark.parametrize("status", range(100, 600))
def test_storing_by_status(status: int) -> None:
    known = status in {200, 203, 204, 300, 301, 302, 303, 307, 308}
    never = status < 200 or (status < 400 and not known) or status in {412, 416}
    assert is_storable(status=status) == (status in HEURISTIC)
    for value in ("max-age=5", "public", "s-maxage=5"):
        assert is_storable(f"Cache-Control: {value}", status=status) is not never
    assert is_storable(f"Expires: {date(NOW)}", status=status) is not never
    if never:
        assert not is_storable("Cache-Control: must-understand, max-age=5", status=status)


@pytest.mark.parametrize("status", [418, 420, 425, 426, 431, 499, 506, 599])
def test_must_understand(status: int) -> None:
    assert is_storable("Cache-Control: max-age=5", status=status)
    assert not is_storable("Cache-Control: max-age=5, must-understand", status=status)
    assert is_storable("Cache-Control: max-age=5, must-understand, no-store", status=404)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("max-age=5", False),
        ("", False),
        ("public", True),
        ("s-maxage=5", True),
        ("must-revalidate, max-age=5", True),
        ("proxy-revalidate, max-age=5", False),
        ("public, private", False),
    ],
)
def test_storing_what_was_authorised(value: str, expected: bool) -> None:
    request = ("Authorization: Basic x",)
    assert is_storable(f"Cache-Control: {value}", request=request) is expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        (["Cache-Control: max-age=5"], False),
        (["Expires: " + date(NOW)], False),
        (["Cache-Control: public"], True),
        (["Cache-Control: public, max-age=5"], True),
        (["Cache-Control: s-maxage=5"], True),
        (["Cache-Control: s-maxage=5", "Set-Cookie: a=b"], False),
        (["CDN-Cache-Control: max-age=5"], True),
        (["Kernelq-Cache-Control: max-age=5", "Set-Cookie: a=b"], False),
        (["CDN-Cache-Control: must-revalidate"], False),
        (["CDN-Cache-Control: must-revalidate", "Cache-Control: public"], False),
        (["CDN-Cache-Control: public"], True),
        (["CDN-Cache-Control: max-age=5, private"], False),
    ],
)
def test_storing_what_is_public(values: list[str], expected: bool) -> None:
    assert is_storable(*values, mode="public") is expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        (["Cache-Control: public"], False),
        (["Cache-Control: max-age=0"], False),
        (["Cache-Control: max-age=x"], False),
        (["Cache-Control: max-age=5"], True),
        (["Cache-Control: s-maxage=0, max-age=5"], False),
        (["Cache-Control: max-age=5, no-cache", 'ETag: "a"'], False),
        (["Expires: " + date(NOW)], True),
        (["Expires: " + date(NOW), "Date: " + date(NOW)], False),
        (["Expires: " + date(NOW), "Date: " + date(NOW - 1)], True),
        (["Expires: 0"], False),
    ],
)
def test_storing_what_has_a_query(values: list[str], expected: bool) -> None:
    assert is_storable(*values, has_query=True) is expected


# ---- freshness (RFC 9111 §4.2) ----


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Cache-Control: max-age=5"], 5),
        (["Cache-Control: max-age=5, s-maxage=7"], 7),
        (["Cache-Control: max-age=5, s-maxage=x"], 0),
        (["Cache-Control: max-age=5", "Expires: " + date(NOW + 9)], 5),
        (["Cache-Control: public", "Expires: " + date(NOW + 9)], 9),
        (["Expires: " + date(NOW + 9), "Date: " + date(NOW - 3)], 12),
        (["Expires: " + date(NOW + 9), "Date: x"], 9),
        (["Expires: " + date(NOW - 9)], 0),
        (["Expires: -1"], 0),
        (["Expires: 0", "Last-Modified: " + date(NOW - 1000)], 0),
        (["Expires: Fri, 31 Dec 9999 23:59:59 GMT"], _coretest.CACHE_BOUNDS["delta"]),
        (["Expires: " + date(NOW + 9), "CDN-Cache-Control: public"], 0),
        (["CDN-Cache-Control: max-age=4", "Cache-Control: s-maxage=9"], 4),
        (["Last-Modified: " + date(NOW - 1009)], 100),
        (["Last-Modified: " + date(NOW - 1009), "Date: " + date(NOW + 100)], 110),
        (["Last-Modified: " + date(NOW + 1)], 0),
        (["Last-Modified: x"], 0),
        (["Last-Modified: " + date(0)], DAY),
        ([], 0),
    ],
)
def test_lifetime(values: list[str], expected: int) -> None:
    assert lifetime(*values) == expected
    if not any("Last-Modified" in value for value in values):
        assert lifetime(*values, mode="public", has_query=True, status=302) == expected


def test_lifetimes_that_nobody_has_promised() -> None:
    changed = "Last-Modified: " + date(NOW - 1000)
    assert lifetime(changed, mode="public") == 0
    assert lifetime(changed, has_query=True) == 0
    for status in range(200, 600):
        assert lifetime(changed, status=status) == (100 if status in HEURISTIC else 0)
        assert lifetime(changed, "Cache-Control: public", status=status) == 100


@pytest.mark.parametrize(
    ("values", "asked", "expected"),
    [
        ([], NOW, 0),
        ([], NOW - 3, 3),
        ([], NOW + 3, 0),  # the clock was set back
        (["Age: 5"], NOW - 3, 8),
        (["Date: " + date(NOW - 5)], NOW, 5),
        (["Date: " + date(NOW + 5)], NOW, 0),
        (["Date: " + date(NOW - 5), "Age: 9"], NOW - 1, 10),
        (["Date: " + date(NOW - 50), "Age: 9"], NOW - 1, 50),
        (["Age: 2147483648"], NOW - 5, 2147483648),
        (["Date: " + date(0)], NOW, NOW),
    ],
)
def test_age(values: list[str], asked: int, expected: int) -> None:
    assert _coretest.cache_age(lines(*values), asked, NOW) == expected


# ---- using again (RFC 9111 §4, §5.2.1) ----


@pytest.mark.parametrize(
    ("stored", "asked", "age", "expected"),
    [
        ("max-age=60", "", 0, "fresh"),
        ("max-age=60", "", 59, "fresh"),
        ("max-age=60", "", 60, "revalidate"),
        ("max-age=60", "", 2**40, "revalidate"),
        ("max-age=0", "", 0, "revalidate"),
        ("max-age=60, no-cache", "", 0, "revalidate"),
        ('max-age=60, no-cache="a"', "", 0, "fresh"),
        ("max-age=60, must-revalidate", "", 59, "fresh"),
        ("max-age=60", "no-store", 0, "never"),
        ("max-age=60", "no-store, no-cache", 99, "never"),
        ("max-age=60", "no-cache", 0, "revalidate"),
        ("max-age=60", "only-if-cached", 0, "fresh"),
        ("max-age=60", "max-age=5", 5, "fresh"),
        ("max-age=60", "max-age=5", 6, "revalidate"),
        ("max-age=60", "max-age=0", 1, "revalidate"),
        ("max-age=60", "max-age=0", 0, "fresh"),
        ("max-age=60", "max-age=100", 70, "revalidate"),
        ("max-age=60", "min-fresh=10", 50, "fresh"),
        ("max-age=60", "min-fresh=10", 51, "revalidate"),
        ("max-age=60", "min-fresh=2147483648", 0, "revalidate"),
        # immutable: a reload does not count, a forced one does (RFC 8246 §2.1).
        ("max-age=60, immutable", "max-age=0", 30, "fresh"),
        ("max-age=60, immutable", "max-age=0", 60, "revalidate"),
        ("max-age=60, immutable", "no-cache", 30, "revalidate"),
        ("max-age=60, immutable", "min-fresh=40", 30, "revalidate"),
        # max-stale
        ("max-age=60", "max-stale", 10**9, "stale"),
        ("max-age=60", "max-stale=5", 65, "stale"),
        ("max-age=60", "max-stale=5", 66, "revalidate"),
        ("max-age=60", "max-stale=5", 59, "fresh"),
        ("max-age=60", "max-stale=x", 61, "revalidate"),
        ("max-age=60", "max-stale, max-age=100", 70, "stale"),
        ("max-age=60", "max-stale, max-age=60", 70, "revalidate"),
        ("max-age=60", "max-stale, min-fresh=1", 70, "revalidate"),
        ("max-age=60, must-revalidate", "max-stale", 60, "revalidate"),
        ("max-age=60, proxy-revalidate", "max-stale", 60, "revalidate"),
        ("s-maxage=60", "max-stale", 60, "revalidate"),
        ("s-maxage=60", "", 59, "fresh"),
        ("max-age=60, no-cache", "max-stale", 60, "revalidate"),
        # stale-while-revalidate (RFC 5861 §3)
        ("max-age=60, stale-while-revalidate=30", "", 59, "fresh"),
        ("max-age=60, stale-while-revalidate=30", "", 60, "while-revalidate"),
        ("max-age=60, stale-while-revalidate=30", "", 89, "while-revalidate"),
        ("max-age=60, stale-while-revalidate=30", "", 90, "revalidate"),
        ("max-age=60, stale-while-revalidate=30", "max-age=100", 70, "revalidate"),
        ("max-age=60, stale-while-revalidate=30", "min-fresh=1", 70, "revalidate"),
        ("max-age=60, stale-while-revalidate=30", "max-stale", 70, "while-revalidate"),
        ("max-age=60, stale-while-revalidate=30", "max-stale", 90, "stale"),
        ("max-age=60, stale-while-revalidate=30", "max-stale=5", 70, "revalidate"),
        ("max-age=60, stale-while-revalidate=30, must-revalidate", "", 60, "revalidate"),
        ("s-maxage=60, stale-while-revalidate=30", "", 60, "revalidate"),
        ("max-age=60, stale-while-revalidate=x", "", 60, "revalidate"),
    ],
)
def test_reuse(stored: str, asked: str, age: int, expected: str) -> None:
    assert reuse(stored, asked, age) == expected


def test_pragma_asks_for_validation() -> None:
    stored = lines("Cache-Control: max-age=60")
    assert _coretest.cache_reuse(stored, lines("Pragma: no-cache"), 0) == "revalidate"


@pytest.mark.parametrize(
    ("stored", "asked", "age", "expected"),
    [
        ("max-age=60", "", 60, False),
        ("max-age=60, stale-if-error=30", "", 60, True),
        ("max-age=60, stale-if-error=30", "", 89, True),
        ("max-age=60, stale-if-error=30", "", 90, False),
        ("max-age=60", "stale-if-error=30", 89, True),
        ("max-age=60, stale-if-error=5", "stale-if-error=30", 89, True),
        ("max-age=60, stale-if-error=30", "stale-if-error=5", 89, True),
        ("max-age=60, stale-if-error=30", "max-age=0", 70, True),
        ("max-age=60, stale-if-error=30", "max-age=0", 30, True),
        ("max-age=60, stale-if-error=30, must-revalidate", "max-age=0", 30, True),
        ("max-age=60, stale-if-error=30", "no-cache", 70, False),
        ("max-age=60, stale-if-error=30", "no-store", 70, False),
        ("max-age=60, stale-if-error=30, no-cache", "", 0, False),
        ("max-age=60, stale-if-error=30, must-revalidate", "", 60, False),
        ("max-age=60, stale-if-error=30, proxy-revalidate", "", 60, False),
        ("s-maxage=60, stale-if-error=30", "", 60, False),
        ("s-maxage=60", "stale-if-error=30", 60, False),
    ],
)
def test_stale_on_error(stored: str, asked: str, age: int, expected: bool) -> None:
    answer = _coretest.cache_stale_on_error(
        lines(f"Cache-Control: {stored}"), lines(f"Cache-Control: {asked}"), age
    )
    assert answer is expected


# ---- conditions (RFC 9110 §13) ----


@pytest.mark.parametrize(
    ("value", "etag", "expected"),
    [
        ('"a"', '"a"', 304),
        ('"a"', '"b"', 200),
        ('W/"a"', '"a"', 304),
        ('"a"', 'W/"a"', 304),
        ('W/"a"', 'W/"a"', 304),
        ('"A"', '"a"', 200),
        ('"x", "a"', '"a"', 304),
        ('"x" , ,W/"a",', '"a"', 304),
        ('"x,y"', '"x,y"', 304),
        ('"x", "y"', '"x,y"', 200),
        ('"\\"', '"\\"', 304),
        ('""', '""', 304),
        ("*", '"a"', 304),
        ("*", "", 304),
        ('"a"', "", 200),
        ('""', "", 200),
        ("", '"a"', 200),
        # Malformed lists name nothing.
        ('"a", x', '"a"', 200),
        ('"a" "b"', '"a"', 200),
        ('"a", *', '"a"', 200),
        ('*, "b"', '"a"', 200),
        ("a", '"a"', 200),
        ('"a', '"a"', 200),
        ('w/"a"', '"a"', 200),
        ('W/"a" x', '"a"', 200),
    ],
)
def test_if_none_match(value: str, etag: str, expected: int) -> None:
    asked = lines(f"If-None-Match: {value}", "If-Modified-Since: " + date(NOW))
    assert _coretest.cache_condition(asked, etag.encode(), NOW, 200) == expected
    assert _coretest.cache_condition(asked, etag.encode(), NOW, 404) == 404


@pytest.mark.parametrize(
    ("value", "modified", "expected"),
    [
        (date(NOW), NOW, 304),
        (date(NOW + 1), NOW, 304),
        (date(NOW - 1), NOW, 200),
        (date(NOW), -1, 200),
        ("x", NOW, 200),
        ("", 0, 200),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777, 304),
        ("Sun Nov  6 08:49:37 1994", 784111777, 304),
        (f"{date(NOW)}, {date(NOW)}", NOW, 200),
    ],
)
def test_if_modified_since(value: str, modified: int, expected: int) -> None:
    asked = lines(f"If-Modified-Since: {value}")
    assert _coretest.cache_condition(asked, b'"a"', modified, 200, NOW) == expected
    for status in (203, 204, 301, 404, 500):
        assert _coretest.cache_condition(asked, b'"a"', modified, status, NOW) == status


def test_no_condition() -> None:
    assert _coretest.cache_condition([], b'"a"', NOW) == 200


# ---- ranges (RFC 9110 §14) ----


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-4", [(0, 5)]),
        ("BYTES=0-4", [(0, 5)]),
        ("bytes=5-", [(5, 5)]),
        ("bytes=-3", [(7, 3)]),
        ("bytes=-99", [(0, 10)]),
        ("bytes=0-99", [(0, 10)]),
        ("bytes=9-9", [(9, 1)]),
        ("bytes=00-0004", [(0, 5)]),
        ("bytes=0-18446744073709551616", [(0, 10)]),
        ("bytes=-18446744073709551616", [(0, 10)]),
        ("bytes=0-" + "9" * 300, [(0, 10)]),
        ("bytes=0-0,-1", [(0, 1), (9, 1)]),
        ("bytes= 0-0 ,, 2-2\t,", [(0, 1), (2, 1)]),
        ("bytes=8-8,0-0", [(8, 1), (0, 1)]),
        ("bytes=0-1,20-30", [(0, 2)]),
        ("bytes=1-2,3-4,8-9", [(1, 4), (8, 2)]),
        ("bytes=8-8,0-0,1-2", [(8, 1), (0, 3)]),
        ("bytes=0-0,4-4,2-2,1-3", [(0, 5)]),
        ("bytes=6-7,0-1,5-5", [(5, 3), (0, 2)]),
        ("bytes=10-", "unsatisfiable"),
        ("bytes=10-,99-100", "unsatisfiable"),
        ("bytes=-0", "unsatisfiable"),
        ("bytes=18446744073709551616-18446744073709551617", "unsatisfiable"),
        ("bytes=18446744073709551617-18446744073709551616", "none"),
        ("bytes=3-2", "none"),
        ("bytes=0-1,3-2", "none"),
        ("bytes=", "none"),
        ("bytes=,", "none"),
        ("bytes=-", "none"),
        ("bytes", "none"),
        ("bytes =0-1", "none"),
        ("bytes=0-1x", "none"),
        ("bytes=0 -1", "none"),
        ("bytes=0--1", "none"),
        ("bytes=+0-1", "none"),
        ("bytes=0-1;0-2", "none"),
        ("bytes=0-1 2-3", "none"),
        ("lines=0-1", "none"),
        ("", "none"),
        # Together more than the whole.
        ("bytes=0-,0-", "none"),
        ("bytes=0-5,0-5", "none"),
        ("bytes=0-4,0-4", [(0, 5)]),
    ],
)
def test_ranges(value: str, expected: str | list[tuple[int, int]]) -> None:
    outcome, ranges = _coretest.cache_ranges(lines(f"Range: {value}"), 10)
    assert (ranges if outcome == "some" else outcome) == expected


def test_ranges_of_nothing() -> None:
    assert _coretest.cache_ranges(lines("Range: bytes=-1"), 0) == ("none", None)
    assert _coretest.cache_ranges(lines("Range: bytes=0-"), 0) == ("unsatisfiable", None)
    assert _coretest.cache_ranges(lines("Range: bytes=-0"), 0) == ("unsatisfiable", None)
    assert _coretest.cache_ranges([], 10) == ("none", None)


def test_count_of_ranges() -> None:
    most = _coretest.CACHE_BOUNDS["ranges"]
    apart = [f"{3 * at}-{3 * at}" for at in range(most + 1)]
    outcome, ranges = _coretest.cache_ranges(lines(f"Range: bytes={','.join(apart[:most])}"), 999)
    assert (outcome, len(ranges)) == ("some", most)
    assert _coretest.cache_ranges(lines(f"Range: bytes={','.join(apart)}"), 999)[0] == "none"
    outside = ",".join(["2000-"] * (most + 1))
    assert _coretest.cache_ranges(lines(f"Range: bytes={outside}"), 999)[0] == "none"


def test_the_largest_content() -> None:
    whole = 2**63
    for value, expected in [
        ("0-", (0, whole)),
        ("-1", (whole - 1, 1)),
        (f"{whole - 2}-", (whole - 2, 2)),
    ]:
        assert _coretest.cache_ranges(lines(f"Range: bytes={value}"), whole)[1] == [expected]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"a"', "some"),
        ('W/"a"', "none"),
        ('"b"', "none"),
        ("a", "none"),
        ("", "none"),
        ('"a", "a"', "none"),
        (date(NOW), "some"),
        (date(NOW + 1), "none"),
        (date(NOW - 1), "none"),
    ],
)
def test_if_range(value: str, expected: str) -> None:
    asked = lines("Range: bytes=0-1", f"If-Range: {value}")
    strong = NOW + _coretest.CACHE_BOUNDS["date_strong_s"]
    facts = {"etag": b'"a"', "modified_s": NOW, "now_s": NOW}
    assert _coretest.cache_ranges(asked, 10, date_s=strong, **facts)[0] == expected
    if value == date(NOW):
        assert _coretest.cache_ranges(asked, 10, date_s=strong - 1, **facts)[0] == "none"
        assert _coretest.cache_ranges(asked, 10, date_s=-1, **facts)[0] == "none"


def test_if_range_against_weak_or_missing_validators() -> None:
    for etag in (b'W/"a"', b""):
        asked = lines("Range: bytes=0-1", f"If-Range: {etag.decode()}")
        assert _coretest.cache_ranges(asked, 10, etag=etag)[0] == "none"
    asked = lines("Range: bytes=0-1", f"If-Range: {date(0)}")
    assert _coretest.cache_ranges(asked, 10, date_s=NOW)[0] == "none"
    assert _coretest.cache_ranges(asked, 10, modified_s=0, date_s=NOW)[0] == "some"
    # Without a Range there is nothing to judge; a range outside is judged only if it holds.
    assert _coretest.cache_ranges(lines('If-Range: "a"'), 10, etag=b'"a"')[0] == "none"
    outside = lines("Range: bytes=10-", 'If-Range: "b"')
    assert _coretest.cache_ranges(outside, 10, etag=b'"a"')[0] == "none"
