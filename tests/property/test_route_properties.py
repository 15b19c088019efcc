"""Routes against a plain matcher: each request is compared with each entry."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernelq import _coretest

LABELS = ("a", "b", "example")
SEGMENTS = ("a", "b", "ab", "long-segment")
ADDRESSES = (b"", b"\1\2\3\4", b"\1\2\3\5", bytes(15) + b"\1")

labels = st.sampled_from(LABELS)
names = st.lists(labels, min_size=1, max_size=3).map(".".join)
hosts = st.one_of(
    st.sampled_from(("+", "", "", "[::1]", "192.0.2.1")), names, names.map(lambda name: f"*.{name}")
)
prefixes = st.lists(st.sampled_from(SEGMENTS), max_size=4).map(
    lambda segments: ("/" + "/".join(segments)).encode()
)
places = st.tuples(st.integers(0, 1), st.sampled_from(ADDRESSES), hosts, prefixes)
tables = st.lists(places, unique=True, max_size=40)

asked_names = st.tuples(names, st.sampled_from(("", ".", ":80", ".:8000"))).map("".join)
asked_hosts = st.one_of(
    asked_names, asked_names.map(str.upper), st.sampled_from(("", "[0::1]", "[::2]", "192.0.2.1"))
)
asked_paths = st.tuples(
    st.lists(st.sampled_from((*SEGMENTS, "", "a" * 9, "c")), max_size=6).map("/".join),
    st.sampled_from(("", "/", "b")),
).map(lambda parts: ("/" + "".join(parts)).encode())
requests = st.tuples(
    st.integers(0, 2), st.sampled_from(ADDRESSES), asked_hosts.map(str.encode), asked_paths
)


def name_of(host: str) -> str:
    """As it is compared."""
    if host.startswith("["):
        return str(ipaddress.ip_address(host[1 : host.index("]")]))
    return host.partition(":")[0].lower().removesuffix(".")


def is_for_host(wanted: str, name: str) -> bool:
    if wanted.startswith("*."):
        label, dot, rest = name.partition(".")
        return bool(label and dot) and rest == wanted[2:] and ":" not in name
    if wanted in ("", "+"):
        return True
    return name == name_of(wanted)


def category_of(wanted: str) -> int:
    if wanted == "+":
        return 0
    if wanted == "":
        return 3
    return 2 if wanted.startswith("*.") else 1


def is_for_path(prefix: bytes, path: bytes) -> bool:
    return prefix == b"/" or path == prefix or path.startswith(prefix + b"/")


def expected(table: list[Any], request: Any) -> int | None:
    """The index of the entry that HTTP.sys would take."""
    listener, address, host, path = request
    ranks = [
        (category_of(wanted), not own, -len(prefix), index)
        for index, (at, own, wanted, prefix) in enumerate(table)
        if at == listener
        and own in (b"", address)
        and is_for_host(wanted, name_of(host.decode()))
        and is_for_path(prefix, path)
    ]
    return min(ranks)[-1] if ranks else None


def made_of(table: list[Any]) -> _coretest.RouteSnapshot:
    return _coretest.RouteSnapshot(
        [(*place, index, index % 7, index, index, True) for index, place in enumerate(table)]
    )


@given(tables, st.lists(requests, min_size=1, max_size=10))
def test_as_the_plain_matcher(table: list[Any], asked: list[Any]) -> None:
    made = made_of(table)
    for request in asked:
        found = made.find(*request)
        index = expected(table, request)
        assert (None if found is None else found[0]) == index
        if index is not None:
            prefix = table[index][3]
            assert found[4] == (0 if prefix == b"/" else len(prefix))


@given(tables, requests)
def test_what_is_not_needed_changes_nothing(table: list[Any], request: Any) -> None:
    made = made_of(table)
    listener, address, host, path = request
    needs = made.needs(listener)
    assert made.find(*request) == made.find(
        listener,
        address if "address" in needs else b"",
        host if "host" in needs else b"",
        path if "path" in needs else b"",
    )


@given(st.lists(places, min_size=1, max_size=12), st.integers(0, 11), st.integers(0, 11))
def test_duplicates_are_told_by_their_indexes(table: list[Any], where: int, what: int) -> None:
    table = list(dict.fromkeys(table))
    what %= len(table)
    where = min(len(table), max(where, what + 1))
    table.insert(where, table[what])
    with pytest.raises(ValueError, match=f"routes {what} and {where} are for the same requests"):
        made_of(table)


hostile = st.one_of(
    st.binary(max_size=40),
    st.text("/.a%:[]*+\0\xff", max_size=40).map(lambda text: text.encode("latin-1")),
    st.tuples(st.sampled_from((b"/a", b"/", b"a.", b"[", b"..")), st.integers(0, 400)).map(
        lambda pair: pair[0] * pair[1]
    ),
)
TABLE = [
    (0, ADDRESSES[own], host, prefix)
    for own in (0, 1)
    for host in ("+", "a.example", "*.a.a", "[::1]", "")
    for prefix in (b"/a", b"/a/a/a/a", b"/" + b"a" * 300, b"/a" * 64)
]
MADE = made_of(TABLE)


@given(hostile, hostile, st.sampled_from(ADDRESSES))
@example(b"a" * 253 + b":", b"/" + b"a" * 301, b"")
@example(b"a" * 254 + b".", b"/a" * 65, b"")
@example(b"[" * 254, b"/a" * 64 + b"a", b"")
def test_any_bytes_are_safe(host: bytes, path: bytes, address: bytes) -> None:
    # Input stands before an unreadable page: see RouteSnapshot.find().
    found = MADE.find(0, address, host, path)
    if found is not None:
        _, own, _, prefix = TABLE[found[0]]
        assert own in (b"", address)
        assert is_for_path(prefix, path)
        assert found[4] == len(prefix)


@given(st.text(max_size=30), st.binary(max_size=30))
def test_any_entry_is_taken_or_refused_in_words(host: str, prefix: bytes) -> None:
    words = ""
    try:
        made = made_of([(0, b"", host, prefix)])
    except ValueError as found:
        words = str(found)
    if words:
        assert "allowed" in words
        return
    asked = "a" + host[1:] if host.startswith("*.") else host
    assert made.find(0, b"", asked.encode(), prefix) is not None
