"""h11 and httptools read the same bytes the same way, except for the differences listed here.

STRICTER: what we refuse and the peer takes (or waits for more of). LOOSER: what we take and the
peer refuses. MEANING: what both take and read differently. Each row names the section that decides,
and every row is needed: one without a case fails. No row may explain away different content.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from http1_cases import parse_head
from http1_peers import Reading, read_h11, read_here, read_httptools
from http1_strategies import heads
from hypothesis import given

if TYPE_CHECKING:
    from collections.abc import Callable

CORPUS = Path(__file__).parents[1] / "corpus" / "http1"
PEERS = {"h11": read_h11, "httptools": read_httptools}


class Row(NamedTuple):
    peers: str
    cases: str  # pattern of corpus names
    section: str
    why: str


def rows(table: str) -> list[Row]:
    """One row a line: who differs, where, by which section we decide, and why."""
    return [
        Row(*(cell.strip() for cell in line.split(" | "))) for line in table.strip().split("\n")
    ]


STRICTER = rows("""
h11           | method-too-long | RFC 9112 §3 | longer than any that is known: 501
h11 httptools | method-connect | RFC 9110 §9.3.6 | we are no proxy: 501
httptools     | empty-lines?-.* | RFC 9112 §2.2 | empty lines end in CR LF and are few
httptools     | two-spaces-.* | RFC 9112 §3 | single spaces divide the request line
h11 httptools | simple-request-.* | RFC 9112 §2.3 | HTTP/0.9: the peer waits for more
h11           | target-(no-slash|query-alone|authority) | RFC 9112 §3.2 | none of the four forms
h11 httptools | target-fragment.* | RFC 9110 §7.1 | no fragment in a target
h11 httptools | target-escape-.* | RFC 3986 §2.1 | % and two hexadecimal digits
h11 httptools | target-asterisk-.* | RFC 9112 §3.2.4 | * alone, and for OPTIONS only
h11 httptools | target-too-long | RFC 9110 §15.5.15 | limit
h11 httptools | absolute-(ftp|httpx|file|one-slash|short) | RFC 9110 §4.2 | http or https
h11 httptools | absolute-(no-host|port-.*) | RFC 9110 §4.2.1 | http has a host
h11 httptools | absolute-(userinfo.*|backslash) | RFC 9110 §4.2.4 | no userinfo
h11 httptools | absolute-escape-.* | RFC 3986 §2.1 | % and two hexadecimal digits
h11 httptools | absolute-with.*-host-field | RFC 9112 §3.2 | one valid Host even so
h11 httptools | version-(0-9|2-0|9-9|http-2-preface) | RFC 9110 §2.5 | major version 1
httptools     | version-other-protocol | RFC 9112 §2.3 | HTTP-name is HTTP
h11           | .*-bare-lf.* | RFC 9112 §2.2 | a recipient may take LF as line end; we do not
h11           | field-section-end-bare-cr|trailer-end-bare-cr | RFC 9112 §2.2 | refused at once
h11           | (field|trailer)-obs-fold.* | RFC 9112 §5.2 | obs-fold: 400
h11           | (field|trailer)-value-(soh|bs|esc|us|del) | RFC 9110 §5.5 | no CTL in a value
h11 httptools | (field|trailer)-.*too-(long|many) | RFC 6585 §5 | limit
h11 httptools | trailer-too-(long|many)|field-count.* | RFC 6585 §5 | limit
h11 httptools | request-too-long | RFC 6585 §5 | limit
h11 httptools | host-.* | RFC 9112 §3.2 | one Host, by its grammar; h11 knows only 1.1
h11           | length-(comma-list|twice)-the-same | RFC 9110 §8.6 | may be refused, is refused
h11 httptools | length-beyond-.* | RFC 9110 §8.6 | no overflow; the peer waits
h11           | length-and-chunked|chunked-and-length.* | RFC 9112 §6.1 | may be refused, is
h11 httptools | coding-in-1-0 | RFC 9112 §6.1 | faulty framing
httptools     | coding-comma-before | RFC 9110 §5.6.1 | an empty element may be taken; not here
httptools     | coding-(gzip|identity)-chunked.* | RFC 9112 §6.1 | unknown coding: 501
h11 httptools | expect-.* | RFC 9110 §10.1.1 | 417 for what is not 100-continue
h11 httptools | connection-(not-a-token|quoted) | RFC 9110 §7.6.1 | a list of tokens
h11           | chunk-size-(space|htab)-behind | RFC 9112 §7.1 | no white space before the line end
h11 httptools | chunk-size-(17-digits|beyond.*|16-digits) | RFC 9112 §7.1 | no overflow
h11 httptools | chunk-extension.* | RFC 9112 §7.1.1 | extensions by their grammar, and few
""")
LOOSER = rows("""
h11           | empty-lines?-.*before | RFC 9112 §2.2 | empty lines before a request are ignored
h11 httptools | chunked-extensions-bad-white-space | RFC 9110 §5.6.3 | BWS is removed
httptools     | method-.* | RFC 9110 §9.1 | methods that it does not know
httptools     | version-1-. | RFC 9110 §2.5 | a higher minor version is compatible
""")
MEANING = rows("""
h11           | version-1-0-keep-alive|apache-bench | RFC 9112 §9.3 | h11 closes after any 1.0
h11           | upgrade-in-1-0 | RFC 9110 §7.8 | Upgrade is ignored in 1.0; h11 waits for the server
httptools     | version-1-0-keep-alive-and-close | RFC 9112 §9.3 | close wins
h11 httptools | field-names-with-underscore-dropped | PEP 3333 | one name in the environ
h11           | chunked-upper-case | RFC 9112 §7 | h11 rewrites the value in lower case
httptools     | (chunked|pipelined-behind).* | RFC 9110 §6.5 | trailers are no header fields
""")


def explained(listed: list[Row], peer: str, stem: str) -> list[Row]:
    name = stem.partition("-")[2]
    return [row for row in listed if peer in row.peers.split() and re.fullmatch(row.cases, name)]


def compare(here: Reading, there: Reading) -> list[Row]:
    """The list in which the difference must stand; an empty one if there is none."""
    if here.verdict == "taken" and there.verdict == "taken":
        return [] if here == there else MEANING
    if here.verdict == "taken":
        return LOOSER
    if here.verdict == "refused":
        return [] if there.verdict == "refused" else STRICTER
    return []


@pytest.mark.parametrize("peer", PEERS)
def test_corpus(peer: str) -> None:
    used: set[Row] = set()
    surprises = []
    for path in sorted(CORPUS.glob("*/*.http")):
        data = path.read_bytes()
        here, there = read_here(data), PEERS[peer](data)
        listed = compare(here, there)
        if listed:
            found = explained(listed, peer, path.stem)
            used.update(found)
            if not found:
                surprises.append((path.stem, here, there))
            if listed is MEANING:
                assert here.content == there.content
    assert surprises == []
    needed = {row for row in STRICTER + LOOSER + MEANING if peer in row.peers.split()}
    assert needed == used


# ---- the same for generated heads, by what the bytes show ----

# Reasons for which the rows above are the only explanation of a peer that goes on.
STRICTER_REASONS = {
    "NOT_IMPLEMENTED", "INVALID_CRLF", "BAD_REQUEST", "URL", "URL_LENGTH", "VERSION", "HEADER",
    "HOSTNAME", "NUMBER", "FRAMING", "EXPECTATION",
}  # fmt: skip
KNOWN_METHODS = re.compile(rb"\r?\n?(GET|HEAD|POST|PUT|DELETE|OPTIONS|TRACE|PATCH|CONNECT) ")


def check_peer(data: bytes, read: Callable[[bytes], Reading], looser: bool) -> None:
    here, there = read_here(data), read(data)
    if here.verdict == "refused":
        assert there.verdict != "taken" or parse_head(data)[0] in STRICTER_REASONS
    elif here.verdict == "taken" and there.verdict == "taken":
        assert (here.method, here.target) == (there.method, there.target)
        assert here.content == there.content
        assert here.fields == [line for line in there.fields if b"_" not in line[0]]
    elif here.verdict == "taken":
        assert looser


@given(heads())
def test_generated_heads_with_h11(data: bytes) -> None:
    check_peer(data, read_h11, looser=data.startswith(b"\r\n"))


@given(heads())
def test_generated_heads_with_httptools(data: bytes) -> None:
    known = KNOWN_METHODS.match(data) is not None
    check_peer(data, read_httptools, looser=not known or b"HTTP/1.2" in data)
