"""The cache's rules against slow readings of the same texts, and what must hold for any bytes.

Every text stands before an unreadable page (tests/doors/guard.pxi).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from cache_lines import NOW
from cache_oracles import (
    DELTA_MAX,
    normal_uri,
    read_cache_control,
    read_date,
    read_dictionary,
    read_ranges,
    uri_is_confusing,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from kernelq import _coretest

# ---- keys ----

path_bits = st.sampled_from(
    [
        "/",
        "/",
        ".",
        "..",
        "%2e",
        "%2E",
        "%2f",
        "a",
        "A",
        "%61",
        "%7e",
        "~",
        "%c3",
        "%C3",
        "%25",
        "41",
    ]
)
paths = st.lists(path_bits, max_size=8).map(lambda bits: "/" + "".join(bits))
query_bits = st.sampled_from(
    ["a", "A", "%41", "%", "%4", "1", "=", "&", "%3d", "%3D", "/", ".", "+"]
)
queries = st.none() | st.lists(query_bits, max_size=6).map("".join)
hosts = st.tuples(
    st.sampled_from(["a", "A", "%61", "b.c", "B.c", "[::1]", "[::A]", "[::a]", "%c3", "%C3", "80"]),
    st.sampled_from(["", ":", ":80", ":443", ":8080"]),
).map("".join)
uris = st.tuples(st.booleans(), hosts, paths | st.just(""), queries)
Uri = tuple[bool, str, str, str | None]


def key_of(uri: Uri) -> bytes | None:
    is_https, host, path, query = uri
    text = None if query is None else query.encode()
    found: bytes | None = _coretest.cache_key(is_https, host.encode(), path.encode(), text)
    return found


def split_key(key: bytes) -> Uri:
    scheme, _, rest = key.decode().partition("://")
    rest, mark, query = rest.partition("?")
    host, slash, path = rest.partition("/")
    return scheme == "https", host, slash + path, query if mark else None


@given(uris, uris)
def test_equal_keys_are_equivalent_uris(one: Uri, other: Uri) -> None:
    for uri in (one, other):
        assert (key_of(uri) is None) == uri_is_confusing(uri)
    assume(not uri_is_confusing(one) and not uri_is_confusing(other))
    assert (key_of(one) == key_of(other)) == (normal_uri(one) == normal_uri(other))


def rewritten(uri: Uri, draw: st.DataObject) -> Uri:
    """The same URI, written in another way."""
    is_https, host, path, query = uri

    def other(found: re.Match[str]) -> str:
        text = found[0]
        if len(text) == 3:
            return draw.draw(st.sampled_from([text.upper(), text.lower()]))
        return draw.draw(st.sampled_from([text, text, f"%{ord(text):02x}"]))

    shape = re.compile(r"%[0-9A-Fa-f]{2}|[A-Za-z0-9.~]")
    path = re.sub(shape, other, path)
    if path and "%2f" not in path.lower():
        dots = draw.draw(st.sampled_from(["", "/.", "/x/..", "/%2E", "/./x/%2e."]))
        at = draw.draw(st.sampled_from([found.start() for found in re.finditer("/", path)]))
        path = path[:at] + dots + path[at:]
    if query is not None and not re.search("%(?![0-9A-Fa-f]{2})", query):
        query = re.sub(shape, other, query)
    host = draw.draw(st.sampled_from([host, host.upper(), host.lower()]))
    if not re.search(r":[0-9]*$", host) or host.endswith("]"):
        host += draw.draw(st.sampled_from(["", ":", ":443" if is_https else ":80"]))
    return is_https, host, path, query


@given(uris, st.data())
def test_equivalent_uris_have_equal_keys(uri: Uri, draw: st.DataObject) -> None:
    assert key_of(rewritten(uri, draw)) == key_of(uri)


@given(uris)
def test_a_key_is_its_own(uri: Uri) -> None:
    key = key_of(uri)
    if key is not None:
        assert key_of(split_key(key)) == key
        assert split_key(key) == normal_uri(uri)


@given(paths, paths)
def test_equal_keys_are_one_path_to_the_application(one: str, other: str) -> None:
    first, second = (key_of((False, "a", path, None)) for path in (one, other))
    if first is not None and first == second:
        seen = [_coretest.normalise_path(path.encode()) for path in (one, other)]
        assert seen[0] == seen[1]


@given(
    st.booleans(), st.binary(max_size=12), st.binary(max_size=20), st.none() | st.binary(max_size=9)
)
def test_any_bytes_have_a_key_or_none(
    is_https: bool, host: bytes, path: bytes, query: bytes | None
) -> None:
    key = _coretest.cache_key(is_https, host, b"/" + path, query, b"x")
    assert key is None or len(key) <= len(host) + len(path) + len(query or b"") + 12


# ---- dates ----

moments = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def asctime(moment: datetime) -> str:
    return f"{moment:%a %b} {moment.day:2} {moment:%H:%M:%S} {moment.year:04}"


def rfc_850(moment: datetime) -> str:
    return f"{DAYS[moment.weekday()]}, {moment:%d-%b-%y %H:%M:%S} GMT"


@given(moments)
def test_dates_in_two_forms(moment: datetime) -> None:
    seconds = int(moment.timestamp())
    text = format_datetime(moment, usegmt=True).encode()
    assert _coretest.cache_read_date(text) == seconds
    assert _coretest.cache_read_date(text.upper()) == seconds
    assert _coretest.cache_put_date(seconds) == text
    assert _coretest.cache_read_date(asctime(moment).encode()) == seconds


@given(moments, st.integers(-49 * 365, 49 * 365))
def test_dates_with_two_digits(now: datetime, days: int) -> None:
    """Within 49 years, as long as no century begins in between."""
    assume(now.year < 9900)
    moment = now + timedelta(days)
    century = now.year // 100
    assume(moment.year // 100 == century or (days < 0 and moment.year % 100 > now.year % 100 + 51))
    found = _coretest.cache_read_date(rfc_850(moment).encode(), int(now.timestamp()))
    assert found == (int(moment.timestamp()) if moment.year >= 1970 else -1)


@given(moments, st.integers(0, 2), st.data())
def test_mutated_dates(moment: datetime, form: int, draw: st.DataObject) -> None:
    text = (format_datetime(moment, usegmt=True), rfc_850(moment), asctime(moment))[form]
    at = draw.draw(st.integers(0, len(text)))
    width = draw.draw(st.integers(0, 2))
    bits = draw.draw(st.text("0123456789 ,:-GMTUCganovsu", max_size=2))
    mutated = text[:at] + bits + text[at + width :]
    assert _coretest.cache_read_date(mutated.encode(), NOW) == read_date(mutated, NOW)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_date_or_none(data: bytes) -> None:
    assert _coretest.cache_read_date(data, NOW) == read_date(data.decode("latin-1"), NOW)


# ---- Cache-Control ----

NAMES = (
    "no-store", "no-cache", "private", "public", "max-age", "s-maxage", "must-revalidate",
    "proxy-revalidate", "must-understand", "immutable", "stale-while-revalidate",
    "stale-if-error", "max-stale", "min-fresh", "only-if-cached", "x",
)  # fmt: skip
arguments = st.sampled_from(
    ["", "=", "=1", "=20", '="3"', "=x", '="a, b"', '="a', '="\\""', "=-1", '="', "=99999999999",
     " =5", "= 5", '=""', '="a b"', "=a", '="1"x', '="a"b"c, "']
)  # fmt: skip
elements = st.tuples(st.sampled_from(NAMES), arguments).map("".join)
separators = st.sampled_from([",", ", ", " ,", ",,", "\t, ", " ", ""])
control_lines = st.lists(st.tuples(elements, separators).map("".join), max_size=6).map("".join)
any_line = control_lines | st.text('ax-max-age=no-storepublic,"\\ \t10;', max_size=30)


@given(st.lists(any_line, max_size=3), st.booleans())
def test_cache_control(values: list[str], is_request: bool) -> None:
    pairs = [(b"Cache-Control", value.strip(" \t").encode()) for value in values]
    read = _coretest.cache_request if is_request else _coretest.cache_response
    assert read(pairs)["directives"] == read_cache_control(values, is_request)


# ---- structured fields ----

bare = st.sampled_from(
    ["1", "-5", "1.5", "12.3456", "999999999999999", "1000000000000000", '"a"', '"a, b"', '"\\""',
     '"\\a"', "tok", "*t/:", "?0", "?1", "?2", ":YWI=:", ":YWI:", ":=:", "@1", "@1.5", '%"a"',
     '%"%c3%a9"', '%"%c3"', "", "'", '"a', "-"]
)  # fmt: skip
parameters = st.lists(
    st.tuples(
        st.sampled_from([";a", "; b", ";*", ";A", " ;c"]), st.just("") | bare.map("={}".format)
    ).map("".join),
    max_size=2,
).map("".join)
items = st.tuples(bare, parameters).map("".join)
inner = st.lists(items, max_size=3).flatmap(
    lambda texts: st.sampled_from([f"({' '.join(texts)})", f"( {'  '.join(texts)} )"])
)
member = st.tuples(
    st.sampled_from([*NAMES, "*k", "Max-Age", "1a"]),
    st.just("") | st.one_of(items, inner).map("={}".format),
    parameters,
).map("".join)
dictionaries = st.lists(member, max_size=5).flatmap(
    lambda texts: st.sampled_from([", ".join(texts), "\t,".join(texts), ",".join(texts) + ","])
)
any_dictionary = dictionaries | st.text('am-g=1, ("x");?:@%\\\t.*', max_size=25)


@given(st.lists(any_dictionary, max_size=2))
def test_targeted_fields(values: list[str]) -> None:
    stripped = [value.strip(" \t") for value in values]
    found = _coretest.cache_response([(b"CDN-Cache-Control", text.encode()) for text in stripped])
    expected = read_dictionary(stripped)
    assert found["is_targeted"] == (expected is not None)
    assert found["directives"] == (expected or {})


@given(st.binary(max_size=40))
def test_any_bytes_in_any_field(data: bytes) -> None:
    pairs = [
        (name, data)
        for name in (
            b"Cache-Control", b"CDN-Cache-Control", b"ETag", b"Vary", b"Age", b"Date", b"Expires",
            b"Last-Modified", b"If-None-Match", b"If-Modified-Since", b"Range", b"If-Range",
            b"Cache-Groups", b"Accept", b"Pragma",
        )
    ]  # fmt: skip
    for one in pairs:
        _coretest.cache_response([one])
        _coretest.cache_request([one])
        assert _coretest.cache_condition([one], b'"a"', NOW, 200, NOW) in (200, 304)
        _coretest.cache_ranges([(b"Range", b"bytes=0-1"), one][::-1], 10)
        _coretest.cache_names_field([one], b"a")
    _coretest.cache_groups(pairs, b"cache-groups")
    _coretest.cache_vary_key([(b"Vary", data)], pairs)


# ---- ranges ----

positions = st.one_of(
    st.integers(0, 12).map(str), st.sampled_from(["", "", "00", "18446744073709551616", "x", " "])
)
specs = st.tuples(positions, st.sampled_from(["-", "-", "-", "", "--"]), positions).map("".join)
range_sets = st.lists(specs, max_size=6).flatmap(
    lambda texts: st.sampled_from([",".join(texts), " , ".join(texts), ",, ".join(texts)])
)


@given(range_sets, st.integers(0, 12))
def test_ranges(text: str, length: int) -> None:
    value = f"bytes={text}".strip()
    outcome, ranges = _coretest.cache_ranges([(b"Range", value.encode())], length)
    assert (ranges if outcome == "some" else outcome) == read_ranges(value, length)


# ---- secondary keys ----

names = st.sampled_from([b"Accept", b"accept-encoding", b"Cookie", b"X-A", b"x-b"])
values = st.text('ab, "\\=1', max_size=8).map(lambda text: text.strip(" ").encode())
requests = st.lists(st.tuples(names, values), max_size=5)
varies = st.lists(names, min_size=1, max_size=4).map(lambda texts: [(b"Vary", b", ".join(texts))])
Lines = list[tuple[bytes, bytes]]
LISTS = {b"accept", b"accept-encoding"}


def vary_values(vary: Lines, request: Lines) -> Any:
    """What tells requests apart, slowly: outside of quotes no space beside a comma counts."""
    found = []
    for name in vary[0][1].lower().split(b", "):
        sent = [value for key, value in request if key.lower() == name]
        if name in LISTS and sent:
            parts: list[bytes] = []
            for value in sent:
                shape = rb'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|\\?$))+'
                parts += (part.strip(b" \t") for part in re.findall(shape, value))
            found.append((name, True, [part for part in parts if part]))
        else:
            found.append((name, bool(sent), sent))
    return found


@given(varies, requests, requests)
def test_secondary_keys(vary: Lines, one: Lines, other: Lines) -> None:
    key = _coretest.cache_vary_key(vary, one)
    assert key is not None
    assert _coretest.cache_vary_matches(key, one)
    same = vary_values(vary, one) == vary_values(vary, other)
    assert _coretest.cache_vary_matches(key, other) is same
    assert (_coretest.cache_vary_key(vary, other) == key) is same


@given(varies, requests, st.data())
def test_a_changed_value_is_another_key(vary: Lines, request: Lines, draw: st.DataObject) -> None:
    assume(request)
    at = draw.draw(st.integers(0, len(request) - 1))
    name, value = request[at]
    changed = [*request[:at], (name, value + b"z"), *request[at + 1 :]]
    key = _coretest.cache_vary_key(vary, request)
    is_named = name.lower() in vary[0][1].lower().split(b", ")
    assert _coretest.cache_vary_matches(key, changed) is not is_named


# ---- ages ----


@given(st.integers(0, 2**40), st.integers(0, 2**33), st.integers(0, 2**33))
def test_age_is_never_less_than_any_part(age: int, date_s: int, asked: int) -> None:
    pairs = [(b"Age", str(age).encode()), (b"Date", _coretest.cache_put_date(date_s))]
    found = _coretest.cache_age(pairs, asked, NOW)
    delay = max(0, NOW - asked)
    assert found == min(DELTA_MAX, max(NOW - date_s, min(age, DELTA_MAX) + delay))
