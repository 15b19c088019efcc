"""Heads and chunked content for hypothesis: mostly valid, so that the deep paths are reached."""

from __future__ import annotations

from hypothesis import strategies as st

from kernelq import _coretest

TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
KNOWN = [wire for wire, _ in _coretest.known_fields() if wire]


def text(alphabet: str, **sizes: int) -> st.SearchStrategy[bytes]:
    return st.text(alphabet, **sizes).map(lambda value: value.encode("latin-1"))


@st.composite
def odd_case(draw: st.DrawFn, name: str) -> bytes:
    flips = draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    pairs = zip(name, flips, strict=True)
    return "".join(byte.upper() if flip else byte for byte, flip in pairs).encode()


names = st.one_of(
    st.sampled_from(KNOWN).flatmap(odd_case),
    text(TOKEN, min_size=1, max_size=40),
    text("ab_-", min_size=1, max_size=5),
)
VALUE_BYTES = "\t " + "".join(map(chr, [*range(0x21, 0x7F), *range(0x80, 0x100)]))
values = st.one_of(
    text(VALUE_BYTES, max_size=80),
    st.sampled_from(b"close keep-alive chunked 5 a.example 100-continue".split()),
)
colons = st.sampled_from([b":", b": ", b":\t ", b" :"])
lines = st.tuples(names, colons, values, st.sampled_from([b"", b" ", b"\t"])).map(b"".join)
methods = st.one_of(
    st.sampled_from([b"GET", b"POST", b"OPTIONS", b"CONNECT"]), text(TOKEN, min_size=1, max_size=70)
)
TARGET_BYTES = "".join(chr(byte) for byte in range(0x21, 0x7F) if chr(byte) != "#")
targets = st.one_of(
    text(TARGET_BYTES, max_size=80).map(lambda rest: b"/" + rest),
    st.sampled_from([b"*", b"http://a.example", b"https://[::1]:8/x?y", b"/", b"/%41?%", b"/%4"]),
    text("/.%2eEfFa?", max_size=30).map(lambda rest: b"/" + rest),
    text(TARGET_BYTES, max_size=10),
)
versions = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/x.1"])
line_ends = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n"])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    start = b" ".join([draw(methods), draw(targets), draw(versions)])
    section = draw(st.lists(lines, max_size=6))
    if draw(st.integers(0, 4)):
        section.insert(draw(st.integers(0, len(section))), b"Host: a.example")
    parts = [draw(st.sampled_from([b"", b"", b"\r\n"])), start, draw(line_ends)]
    for line in section:
        parts += [line, draw(line_ends)]
    return b"".join([*parts, b"\r\n"])


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """The same with a few bytes replaced, left out or put in."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        put = draw(st.sampled_from([b"", *(bytes([byte]) for byte in b"\0\r\n \t:\x7f\x80")]))
        data[at : at + draw(st.integers(0, 2))] = put
    return bytes(data)


any_head = st.one_of(damaged(heads()), st.binary(max_size=60))

GOOD_EXTENSIONS = [b"", b"", b"", b"", b";a", b";a=b", b';a="b;\\""', b" ;\ta = b;c"]
CHUNK_EXTENSIONS = [*GOOD_EXTENSIONS, b";", b" ", b";a=\x00"]


@st.composite
def chunked(draw: st.DrawFn) -> bytes:
    parts = []
    for size in draw(st.lists(st.integers(1, 40), max_size=4)):
        digits = f"{size:0{draw(st.integers(0, 5))}x}".encode()
        parts += [digits, draw(st.sampled_from(CHUNK_EXTENSIONS)), b"\r\n"]
        parts += [draw(st.binary(min_size=size, max_size=size)), b"\r\n"]
    trailers = draw(st.lists(lines, max_size=3))
    return b"".join([*parts, b"0\r\n", *(line + b"\r\n" for line in trailers), b"\r\n"])


any_chunked = st.one_of(damaged(chunked()), st.binary(max_size=30))
