"""Keys, secondary keys, groups, and what of a response is stored."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cache_lines import lines

from kernelq import _coretest

SEED = bytes(16)


def key(text: str, extra: bytes = b"") -> bytes | None:
    """The key of scheme://host/path?query."""
    scheme, _, rest = text.partition("://")
    rest, mark, query = rest.partition("?")
    host, slash, path = rest.partition("/")
    found: bytes | None = _coretest.cache_key(
        scheme == "https",
        host.encode(),
        (slash + path).encode(),
        query.encode() if mark else None,
        extra,
    )
    return found


# ---- keys (RFC 3986 §6.2.2, §6.2.3) ----


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("http://a/", "http://a/"),
        ("http://a", "http://a/"),
        ("http://a?x", "http://a/?x"),
        ("http://a/?", "http://a/?"),
        ("http://a:80/", "http://a/"),
        ("http://a:/", "http://a/"),
        ("http://a:443/", "http://a:443/"),
        ("https://a:443/", "https://a/"),
        ("https://a:80/", "https://a:80/"),
        ("http://a:080/", "http://a:080/"),
        ("http://a:8080/", "http://a:8080/"),
        ("http://ExAmPle.COM/PaTh?QuErY", "http://example.com/PaTh?QuErY"),
        ("http://a./", "http://a./"),
        ("http://%41%c3%b6/", "http://a%C3%B6/"),
        ("http://[2001:DB8::1]:80/", "http://[2001:db8::1]/"),
        ("http://[::1]/", "http://[::1]/"),
        ("http://[::80]/", "http://[::80]/"),
        ("http://127.0.0.1:80/", "http://127.0.0.1/"),
        ("http://80/", "http://80/"),
        ("http://a/%7eb%7E%2d%2D%5f%41", "http://a/~b~--_A"),
        ("http://a/%2f%3f%c3%A9%25", "http://a/%2F%3F%C3%A9%25"),
        ("http://a/%2541", "http://a/%2541"),
        ("http://a/b/./c/../d", "http://a/b/d"),
        ("http://a/b/%2e/c/%2E%2e/d", "http://a/b/d"),
        ("http://a/..", "http://a/"),
        ("http://a/.", "http://a/"),
        ("http://a/b/..", "http://a/"),
        ("http://a/b/.", "http://a/b/"),
        ("http://a/../../b", "http://a/b"),
        ("http://a//b//", "http://a//b//"),
        ("http://a/b//../c", "http://a/b/c"),
        ("http://a/...", "http://a/..."),
        ("http://a/.b/b.", "http://a/.b/b."),
        ("http://a/b%2f..", "http://a/b%2F.."),
        ("http://a/b/..%2fc", "http://a/b/..%2Fc"),
        ("http://a/?%41%2f/./../", "http://a/?A%2F/./../"),
        ("http://a/?%", "http://a/?%"),
        ("http://a/?%41%zz", "http://a/?%41%zz"),
        ("http://a/?%%341", "http://a/?%%341"),
        ("http://a/?a=1&b=2", "http://a/?a=1&b=2"),
        ("http://a/?b=2&a=1", "http://a/?b=2&a=1"),
        ("http://a/?a+b", "http://a/?a+b"),
        ("http://a/?a%20b", "http://a/?a%20b"),
        ("http://a/|[]", "http://a/|[]"),
    ],
)
def test_key(sent: str, expected: str) -> None:
    assert key(sent) == expected.encode()
    assert key(expected) == expected.encode()
    assert key(sent, b"/app 81") == expected.encode() + b" /app 81"


def test_keys_that_are_none() -> None:
    assert key("http:///a") is None
    assert key("http://:80/a") is None
    assert key("http://a/%4") is None
    assert key("http://a/%zz") is None
    assert _coretest.cache_key(False, b"a", b"*") is None


@pytest.mark.parametrize(
    "path", ["/a%2Fb/../c", "/a/../b%2fc", "/%2f/.", "/./%2f", "/a/%2E%2e/%2F", "/x/z/../..%2fy"]
)
def test_no_key_where_the_application_sees_another_path(path: str) -> None:
    """Or the response for /a/c would be stored for /c."""
    assert key(f"http://a{path}") is None


def test_room_for_a_key() -> None:
    found = _coretest.cache_key(True, b"a", b"/b", b"c", b"d", room=17)
    assert found == b"https://a/b?c d"
    for room in range(17):
        assert _coretest.cache_key(True, b"a", b"/b", b"c", b"d", room=room) in (None, found)
    assert _coretest.cache_key(True, b"a", b"/b", b"c", b"d", room=0) is None


# ---- references (RFC 3986 §5.2, §5.4) ----


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("", "http://a/b/c/d;p?q"),
        ("#s", "http://a/b/c/d;p?q"),
        ("?y", "http://a/b/c/d;p?y"),
        ("?", "http://a/b/c/d;p?"),
        ("?y#s", "http://a/b/c/d;p?y"),
        ("g", "http://a/b/c/g"),
        ("./g/", "http://a/b/c/g/"),
        ("g?y/./x", "http://a/b/c/g?y/./x"),
        (";x", "http://a/b/c/;x"),
        (".", "http://a/b/c/"),
        ("../..", "http://a/"),
        ("../../../g", "http://a/g"),
        ("/g", "http://a/g"),
        ("/./%67?%79", "http://a/g?y"),
        ("//a/g", "http://a/g"),
        ("//A:80", "http://a/"),
        ("http://a/g", "http://a/g"),
        ("HTTP://A:80/g?#", "http://a/g?"),
        ("http://a?y", "http://a/?y"),
        ("./g:h", "http://a/b/c/g:h"),
        ("/g:h", "http://a/g:h"),
        # Another origin, or nothing that http knows.
        ("//b/g", None),
        ("//a:81/g", None),
        ("https://a/g", None),
        ("https://a:80/g", None),
        ("http:g", None),
        ("http:/g", None),
        ("g:h", None),
        ("mailto:a@b", None),
        ("//u@a/g", None),
        ("///g", None),
        ("//", None),
        ("/g h", None),
        ("/g\0h", None),
        ("/g\0#h", None),
        ("/\xe9", None),
        ("/%zz", None),
        ("%", None),
    ],
)
def test_references(reference: str, expected: str | None) -> None:
    base = (False, b"a:80", b"/b/c/d;p", b"q")
    text = reference.encode("latin-1")
    for extra in (b"", b"x"):
        found = _coretest.cache_reference_key(*base, text, extra=extra)
        wanted = expected and f"{expected}{' x' if extra else ''}".encode()
        assert found == wanted


def test_room_for_a_reference() -> None:
    base = (True, b"a", b"/b/c", None)
    whole = _coretest.cache_reference_key(*base, b"d")
    assert whole == b"https://a/b/d"
    for room in range(40):
        for reference in (b"d", b"https://a/b/d"):
            found = _coretest.cache_reference_key(*base, reference, room=room)
            assert found in (None, whole)
    assert _coretest.cache_reference_key(*base, b"//a:443/b/d") == whole
    assert _coretest.cache_reference_key(True, b"a", b"", None, b"d") == b"https://a/d"


# ---- secondary keys (RFC 9111 §4.1) ----


def matches(vary: str, first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    found = _coretest.cache_vary_key(lines(f"Vary: {vary}"), lines(*first))
    assert found is not None
    assert _coretest.cache_vary_matches(found, lines(*first))
    answer: bool = _coretest.cache_vary_matches(found, lines(*second))
    back = _coretest.cache_vary_key(lines(f"Vary: {vary}"), lines(*second))
    assert answer == (found == back)
    return answer


@pytest.mark.parametrize(
    ("vary", "first", "second", "expected"),
    [
        ("accept", (), (), True),
        ("accept", ("Accept: a",), (), False),
        ("accept", ("Accept:",), (), False),
        ("accept", ("Accept: a, b",), ("accept: a,b",), True),
        ("accept", ("Accept: a, b",), ("accept: a", "Accept: b"), True),
        ("accept", ("Accept: ,a\t,, b ,",), ("accept: a", "Accept:", "accept: b"), True),
        ("accept", ("Accept: a, b",), ("Accept: b, a",), False),
        ("accept", ("Accept: ab",), ("Accept: a b",), False),
        ("accept", ("Accept: a",), ("Accept: A",), False),
        ("accept", ('Accept: a;b="c, d"',), ('Accept: a;b="c,d"',), False),
        ("accept", ('Accept: a;b="\\", d"',), ('Accept: a;b="\\",d"',), False),
        ("accept", ('Accept: a;b="x" , c',), ('Accept: a;b="x",c',), True),
        ("accept", ('Accept: "a , b',), ('Accept: "a,b',), False),
        ("Accept-Encoding", ("Accept-Encoding: gzip, br",), ("accept-encoding: gzip,br",), True),
        ("Accept-Encoding", ("Accept-Encoding: gzip",), ("Accept-Encoding: br",), False),
        # Nothing is known of these: each line counts as it is.
        ("x-a", ("X-A: a, b",), ("x-a: a,b",), False),
        ("x-a", ("X-A: a", "x-a: b"), ("X-A: a, b",), False),
        ("x-a", ("X-A: a", "x-a: b"), ("X-A: b", "X-A: a"), False),
        ("x-a", ("X-A: ab",), ("X-A: a", "X-A: b"), False),
        ("X-A", ("X-A: ab",), ("x-a: ab", "x-b: c"), True),
        ("x-a", ("X-A:",), (), False),
        ("x-a", ("X-A:",), ("X-A:", "X-A:"), False),
        ("user-agent", ("User-Agent: a (b, c)",), ("User-Agent: a (b,c)",), False),
        ("cookie", ("Cookie: a=1; b=2",), ("Cookie: a=1",), False),
        ("if-none-match", ('If-None-Match: "\\", "a,,b"',), ('If-None-Match: "\\", "a,b"',), False),
        ("accept, x-a", ("Accept: a", "X-A: b"), ("X-A: b", "Accept: a"), True),
        ("accept, x-a", ("Accept: a", "X-A: b"), ("X-A: b", "Accept: c"), False),
        ("accept, x-a", ("Accept: a", "X-A: b"), ("Accept: a",), False),
        ("", ("Accept: a",), ("Accept: b",), True),
    ],
)
def test_secondary_keys(
    vary: str, first: tuple[str, ...], second: tuple[str, ...], expected: bool
) -> None:
    assert matches(vary, first, second) is expected
    assert matches(vary, second, first) is expected


def test_names_in_vary() -> None:
    asked = lines("Accept: a", "X-A: b")
    once = _coretest.cache_vary_key(lines("Vary: Accept, X-A"), asked)
    for texts in (
        ("Vary: accept,x-a",),
        ("VARY: ACCEPT", "Date: x", "vary: , X-a , ACCEPT"),
        ("Vary: Accept, accept, X-A, x-a, X-a",),
    ):
        assert _coretest.cache_vary_key(lines(*texts), asked) == once
    assert _coretest.cache_vary_key(lines("Vary: X-A, Accept"), asked) != once
    assert _coretest.cache_vary_key(lines("Age: 5"), asked) == b""
    assert _coretest.cache_vary_key(lines("Vary: ,"), asked) == b""
    for value in ("*", "accept, *", "a b", "a;b", '"a"'):
        assert _coretest.cache_vary_key(lines(f"Vary: {value}"), asked) is None


def test_bounds_of_secondary_keys() -> None:
    most = _coretest.CACHE_BOUNDS["vary_names"]
    names = [f"x-{at}" for at in range(most + 1)]
    fits = lines(f"Vary: {', '.join(names[:most] * 3)}")
    assert _coretest.cache_vary_key(fits, []) is not None
    assert _coretest.cache_vary_key(lines(f"Vary: {','.join(names)}"), []) is None
    vary = lines("Vary: x-a, accept, cookie")
    asked = lines("X-A: value", "Accept: a, b", "Cookie: c")
    whole = _coretest.cache_vary_key(vary, asked)
    for room in range(len(whole)):
        assert _coretest.cache_vary_key(vary, asked, room) is None
    assert _coretest.cache_vary_key(vary, asked, len(whole)) == whole


# ---- hashes and groups (RFC 9875) ----


def test_siphash_is_that_of_the_interpreter() -> None:
    """Python hashes bytes with SipHash-1-3 too, and with a seed of zeros when it is told to."""
    if sys.hash_info.algorithm != "siphash13" or sys.hash_info.hash_bits != 64:
        pytest.skip("another hash")
    code = "print([hash(bytes(range(200))[:n]) for n in range(1, 200)])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "0"}, capture_output=True, check=True
    )
    for count, expected in enumerate(eval(done.stdout), 1):
        found = _coretest.cache_siphash(SEED, bytes(range(200))[:count])
        assert found == expected % 2**64


def test_siphash_takes_the_seed() -> None:
    seeds = [bytes(at) + b"\x01" + bytes(15 - at) for at in range(16)]
    assert len({_coretest.cache_siphash(seed, b"x") for seed in seeds}) == 16


def groups(*values: str, **options: int) -> tuple[int, list[int]]:
    pairs = lines(*(f"Cache-Groups: {value}" for value in values), "Age: 5")
    found: tuple[int, list[int]] = _coretest.cache_groups(pairs, b"cache-groups", **options)
    return found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (['"a"'], [b"a"]),
        (['"a", "b"'], [b"a", b"b"]),
        (['"a"', '"b"'], [b"a", b"b"]),
        (['""'], [b""]),
        (['"a";x=1;y ,"b"'], [b"a", b"b"]),
        (['"a, b"'], [b"a, b"]),
        (['"\\"\\\\"'], [b'"\\']),
        (
            ['"1234567"', '"12345678"', '"12345678\\"0123456"'],
            [b"1234567", b"12345678", b'12345678"0123456'],
        ),
        (["A" * 5], []),
        (['"a", b'], []),
        (['"a", ("b")'], []),
        (['"a", 1'], []),
        (['"a",'], []),
        (['"a" "b"'], []),
        (['"a', '"b"'], []),
        (['"a"', ""], []),
        (["", '"a"'], []),
        (['"\xe9"'], []),
        ([""], []),
        ([], []),
    ],
)
def test_groups(values: list[str], expected: list[bytes]) -> None:
    hashes = [_coretest.cache_siphash(SEED, name) for name in expected]
    assert groups(*values) == (len(expected), hashes)


def test_count_of_groups() -> None:
    names = [f"{at:032}" for at in range(100)]
    text = ", ".join(f'"{name}"' for name in names)
    hashes = [_coretest.cache_siphash(SEED, name.encode()) for name in names]
    assert groups(", ".join(f'"{name}"' for name in names[:64])) == (64, hashes[:64])
    assert groups(text) == (100, hashes[:64])
    assert groups(text, most=3) == (100, hashes[:3])
    assert groups(text + ", x") == (0, [])


def test_groups_by_name() -> None:
    pairs = lines('Cache-Group-Invalidation: "a"', 'Cache-Groups: "b"')
    assert _coretest.cache_groups(pairs, b"cache-group-invalidation")[0] == 1
    assert _coretest.cache_groups(pairs, b"cache-group")[0] == 0


# ---- what is stored (RFC 9111 §3.1) ----


@pytest.mark.parametrize(
    "name",
    [
        "Age",
        "Connection",
        "Content-Length",
        "Keep-Alive",
        "Kernelq-Cache-Control",
        "Proxy-Authenticate",
        "Proxy-Authentication-Info",
        "Proxy-Authorization",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    ],
)
def test_fields_that_are_not_stored(name: str) -> None:
    for spelt in (name, name.lower(), name.upper()):
        assert not _coretest.cache_is_kept(spelt.encode())
        assert _coretest.cache_is_kept(spelt.encode() + b"x")
        assert _coretest.cache_is_kept(spelt[:-1].encode() + b"?")


@pytest.mark.parametrize(
    "name", ["Set-Cookie", "ETag", "Via", "CDN-Cache-Control", "Date", "X", ""]
)
def test_fields_that_are_stored(name: str) -> None:
    assert _coretest.cache_is_kept(name.encode())


def test_names_in_a_list() -> None:
    for text in (b"a, X-y", b"x-Y", b",, x-y\t,"):
        assert _coretest.cache_is_named(text, b"X-Y")
    for text in (b"", b"x-yz", b"x y", b"x-"):
        assert not _coretest.cache_is_named(text, b"x-y")
    assert not _coretest.cache_is_named(b",", b"")
