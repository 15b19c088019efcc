"""Routes: the order of the categories, hosts, prefixes, and what the builder refuses."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from kernelq import _coretest

HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"


def row(
    url: str, number: int, address: str = "", listener: int = 0, **more: Any
) -> tuple[Any, ...]:
    """An entry for HOST/PATH; its application, pool and site are the number, by hundreds."""
    host, slash, path = url.partition("/")
    return (
        listener,
        packed(address),
        host,
        (slash + path).encode(),
        number,
        more.get("pool", 100 + number),
        200 + number,
        300 + number,
        more.get("is_enabled", True),
    )


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed if address else b""


def snapshot(*rows: Any) -> _coretest.RouteSnapshot:
    return _coretest.RouteSnapshot(rows)


def routes(*urls: str) -> _coretest.RouteSnapshot:
    """Each URL is for the application with its index."""
    return snapshot(*(row(url, index) for index, url in enumerate(urls)))


def found(
    made: _coretest.RouteSnapshot, host: str, path: str = "/", address: str = "", listener: int = 0
) -> int | None:
    """The application that is found."""
    route = made.find(listener, packed(address), host.encode(), path.encode())
    return None if route is None else int(route[0])


# ---- categories ----


def test_worked_example_of_the_order() -> None:
    made = routes("+/vroot", "adatum.com/", "/")
    assert found(made, "adatum.com", "/vroot/x") == 0
    assert found(made, "adatum.com", "/default.htm") == 1
    assert found(made, "other.example", "/default.htm") == 2


def test_worked_example_of_whole_segments() -> None:
    made = routes("/dir/sna", "/")
    assert found(made, "a", "/dir/app.htm") == 1
    assert found(made, "a", "/dir/sna/app.htm") == 0


def test_first_category_with_any_match_ends_the_search() -> None:
    made = routes("adatum.com/", "/vroot")
    assert found(made, "adatum.com", "/vroot/file") == 0
    assert found(made, "b.example", "/vroot/file") == 1
    assert found(made, "b.example", "/file") is None


def test_a_category_without_a_match_is_passed_over() -> None:
    made = routes("+/a", "n.example/b", "*.example/c", "/d")
    assert [found(made, "n.example", f"/{letter}") for letter in "abcde"] == [0, 1, 2, 3, None]
    assert [found(made, "m.example", f"/{letter}") for letter in "abcde"] == [0, None, 2, 3, None]
    assert [found(made, "m.n.example", f"/{letter}") for letter in "abcde"] == [
        0,
        None,
        None,
        3,
        None,
    ]


def test_local_addresses() -> None:
    made = snapshot(
        row("+/strong", 0),
        row("+/strong", 1, HERE),
        row("n.example/", 2),
        row("n.example/", 3, HERE),
        row("*.example/", 4),
        row("*.example/", 5, HERE),
        row("/", 6),
        row("/", 7, HERE),
    )
    for address, which in ((HERE, 1), (ELSEWHERE, 0), ("", 0), ("::1", 0)):
        assert found(made, "n.example", "/strong", address) == 0 + which
        assert found(made, "n.example", "/", address) == 2 + which
        assert found(made, "m.example", "/", address) == 4 + which
        assert found(made, "another", "/", address) == 6 + which


def test_an_address_goes_before_a_longer_prefix_within_a_category() -> None:
    made = snapshot(row("/", 0, HERE), row("/long/path", 1), row("n.example/long", 2))
    assert found(made, "a", "/long/path", HERE) == 0
    assert found(made, "a", "/long/path", ELSEWHERE) == 1
    assert found(made, "n.example", "/long/path", HERE) == 2


def test_addresses_of_both_families() -> None:
    made = snapshot(row("/", 0, "::ffff:192.0.2.1"), row("/", 1, "2001:db8::1"), row("/", 2))
    assert found(made, "a", address=HERE) == 0
    assert found(made, "a", address="2001:db8:0::1") == 1
    assert found(made, "a", address="2001:db8::2") == 2


def test_listeners_know_nothing_of_each_other() -> None:
    made = snapshot(
        row("n.example/", 0, listener=0), row("/", 1, listener=2), row("n.example/", 2, listener=2)
    )
    assert [found(made, "n.example", listener=number) for number in range(5)] == [
        0,
        None,
        2,
        None,
        None,
    ]
    assert [found(made, "b", listener=number) for number in range(4)] == [None, None, 1, None]
    assert found(made, "b", listener=4_000_000_000) is None


def test_no_routes() -> None:
    assert found(routes(), "a") is None


# ---- hosts ----


@pytest.mark.parametrize(
    "host",
    [
        "www.example.org",
        "WWW.Example.ORG",
        "www.example.org:80",
        "www.example.org:",
        "www.example.org.",
        "www.example.org.:8080",
    ],
)
def test_names_match(host: str) -> None:
    assert found(routes("www.Example.org/"), host) == 0


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        ":80",
        "www.example.or",
        "www.example.orgs",
        "ww.example.org",
        "www.example.org..",
        ".www.example.org",
        "a.www.example.org",
        "%77ww.example.org",
        "www.example.org" + "a" * 300,
        "a" * 70000,
        "[",
        "[]",
        "[www.example.org]",
    ],
)
def test_names_that_do_not_match(host: str) -> None:
    assert found(routes("www.example.org/"), host) is None
    assert found(routes("www.example.org/", "/"), host) == 1


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a.example.org", 0),
        ("A.EXAMPLE.ORG.:1", 0),
        ("a.b.example.org", 1),
        ("example.org", 1),
        (".example.org", 1),
        ("aexample.org", 1),
        ("*.example.org", 0),
        ("a.", 1),
        ("a", 1),
        ("192.0.2.1", 1),
    ],
)
def test_leftmost_labels(host: str, expected: int) -> None:
    assert found(routes("*.example.org/", "/"), host) == expected


def test_a_name_goes_before_its_label_wildcard() -> None:
    made = routes("*.example.org/", "a.example.org/", "*.example.org/long", "+/strong")
    assert found(made, "a.example.org", "/long") == 1
    assert found(made, "b.example.org", "/long") == 2
    assert found(made, "b.example.org", "/strong") == 3


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("[2001:db8::1]", 0),
        ("[2001:DB8:0:0::1]:80", 0),
        ("[2001:db8::192.0.2.1]", 1),
        ("[2001:db8::2]", 1),
        ("[v1.fe]", 1),
        ("2001:db8::1", 1),
        ("[2001:db8::1", 1),
        ("[2001:db8::1%eth0]", 1),
        ("192.0.2.1", 2),
        ("192.0.2.1:8080", 2),
        ("192.0.2.01", 1),
    ],
)
def test_literals(host: str, expected: int) -> None:
    assert found(routes("[2001:db8::0:1]/", "/", "192.0.2.1/"), host) == expected


def test_longest_name() -> None:
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert len(name) == 253
    made = routes(f"{name}/", "/")
    assert found(made, f"{name}.:8000") == 0
    assert found(made, f"{name}c") == 1
    assert found(made, name[:-1]) == 1


# ---- prefixes ----

PREFIXES = ("/", "/shop", "/shop/cart", "/a/b/c", "/a", "/sh", "/ä", "/x y/%2f")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("/shop", "/shop"),
        ("/shop/", "/shop"),
        ("/shop//cart", "/shop"),
        ("/shop/cart", "/shop/cart"),
        ("/shop/cart/", "/shop/cart"),
        ("/shop/cart/x/y/z", "/shop/cart"),
        ("/shop/carts", "/shop"),
        ("/shop/car", "/shop"),
        ("/shops", "/"),
        ("/sho", "/"),
        ("/Shop", "/"),
        ("/sh", "/sh"),
        ("/a/b", "/a"),
        ("/a/b/", "/a"),
        ("/a/b/c", "/a/b/c"),
        ("/a/b/cc", "/a"),
        ("/a/b/c/d", "/a/b/c"),
        ("//a", "/"),
        ("//shop", "/"),
        ("/ä/x", "/ä"),
        ("/x y/%2f/z", "/x y/%2f"),
        ("/" + "a" * 5000, "/"),
        ("/a" * 5000, "/a"),
        ("/shop" + "/" * 5000, "/shop"),
        ("*", "/"),
        ("", "/"),
        ("shop", "/"),
    ],
)
def test_longest_prefix_of_whole_segments(path: str, expected: str) -> None:
    made = routes(*PREFIXES)
    assert PREFIXES[found(made, "any", path) or 0] == expected
    without_root = found(routes(*PREFIXES[1:]), "any", path)
    assert without_root == (None if expected == "/" else PREFIXES.index(expected) - 1)


def test_depths_and_lengths_at_their_bounds() -> None:
    deep, long = "/d" * 64, "/" + "l" * 2047
    made = routes(deep, long, "/d", "/d/d")
    assert found(made, "", deep) == 0
    assert found(made, "", deep + "/d") == 0
    assert found(made, "", deep[:-2]) == 3
    assert found(made, "", long + "/x") == 1
    assert found(made, "", long + "l") is None
    assert found(made, "", long[:-1]) is None


def test_later_scopes_read_the_path_on() -> None:
    # The first scope looks at one short segment, the next ones further and further.
    made = routes("+/x", "n.example/aaaaaaaa/b", "*.example/aaaaaaaa/bb/c/d", "/aaaaaaaa/bb/cc/e")
    assert found(made, "n.example", "/aaaaaaaa/bb/c/d/e") == 2
    assert found(made, "n.example", "/aaaaaaaa/bb/cc/e/f") == 3
    assert found(made, "n.example", "/aaaaaaaa/b/c") == 1
    assert found(made, "n.example", "/aaaaaaaa/bb/cc") is None


# ---- what is found ----


def test_everything_of_a_route() -> None:
    made = snapshot(
        row("n.example/shop", 7, is_enabled=False, pool=9), row("/", 8, pool=9), row("/x", 1)
    )
    assert made.find(0, b"", b"n.example", b"/shop/x") == (7, 9, 207, 307, 5, False)
    assert made.find(0, b"", b"", b"/shop/x") == (8, 9, 208, 308, 0, True)
    assert sorted(made.pools) == [9, 101]
    assert made.bytes > 0


def test_match_takes_a_path_as_sent() -> None:
    made = routes("/", "/a b/c")
    assert made.match(0, b"", b"x", b"/z/../a%20b/./c/d") == (1, 101, 201, b"/a b/c")
    assert made.match(0, b"", b"x", b"/z") == (0, 100, 200, b"/")
    assert made.match(1, b"", b"x", b"/z") is None
    for path in (b"", b"z", b"/%zz"):
        with pytest.raises(ValueError, match="allowed is one that begins with '/'"):
            made.match(0, b"", b"x", path)


@pytest.mark.parametrize(
    ("rows", "needs"),
    [
        ([], set()),
        ([row("/", 0)], set()),
        ([row("+/", 0)], set()),
        ([row("+/", 0), row("/a", 1), row("n.example/", 2), row("/", 3, HERE)], set()),
        ([row("+/a", 0), row("/", 1)], {"path"}),
        ([row("/a", 0)], {"path"}),
        ([row("n.example/", 0)], {"host"}),
        ([row("*.example/", 0)], {"host"}),
        ([row("n.example/a", 0), row("/", 1)], {"host", "path"}),
        ([row("/", 0, HERE)], {"address"}),
        ([row("/", 0, HERE), row("/", 1)], {"address"}),
        ([row("+/", 0), row("+/", 1, HERE)], {"address"}),
        ([row("n.example/", 0, HERE), row("/a", 1)], {"address", "host", "path"}),
        ([row("/a", 0, listener=1)], set()),
    ],
)
def test_needs(rows: list[Any], needs: set[str]) -> None:
    assert snapshot(*rows).needs(0) == needs


def test_needs_of_a_listener_that_is_not_there() -> None:
    assert routes("/a").needs(1) == set()


# ---- what is refused ----


@pytest.mark.parametrize(
    "host",
    [
        "*",
        "*.",
        "**",
        "a.*",
        "*.*.example",
        "*a.example",
        "a:80",
        "a b",
        "a..b",
        ".a",
        "a.",
        "ä.example",
        "a%20b",
        "a" * 254,
        "[",
        "[]",
        "[::1",
        "[::1]:80",
        "[v1.a]",
        "[127.0.0.1]",
        "*.[::1]",
    ],
)
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(ValueError, match=r"route 1: found host .* allowed are '\+', '', a name"):
        routes("/", f"{host}/")


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "a",
        "//",
        "/a/",
        "/.",
        "/..",
        "/a/./b",
        "/a/..",
        "/a\0",
        "/a\x7f",
        "/" + "a" * 2048,
        "/a" * 65,
    ],
)
def test_prefixes_that_are_none(prefix: str) -> None:
    entry = list(row("/", 0))
    entry[3] = prefix.encode()
    with pytest.raises(ValueError, match=r"route 1: found prefix .* allowed is '/' or a path"):
        snapshot(row("n.example/", 0), tuple(entry))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (row("/", 0), row("/", 1)),
        (row("/a/b", 0), row("/a/b", 1)),
        (row("+/a", 0), row("+/a", 1)),
        (row("n.example/", 0), row("N.Example/", 1)),
        (row("*.example/a", 0), row("*.EXAMPLE/a", 1)),
        (row("[::1]/", 0), row("[0:0::1]/", 1)),
        (row("/", 0, HERE), row("/", 1, "::ffff:192.0.2.1")),
    ],
)
def test_duplicates_name_both(first: Any, second: Any) -> None:
    others = (row("x.example/", 5), row("y.example/", 6))
    with pytest.raises(ValueError, match="routes 1 and 3 are for the same requests: listener 0, "):
        snapshot(others[0], first, others[1], second)


def test_near_duplicates_are_none() -> None:
    snapshot(
        row("/", 0),
        row("/", 1, HERE),
        row("/", 2, ELSEWHERE),
        row("/", 3, listener=1),
        row("+/", 4),
        row("n.example/", 5),
        row("*.n.example/", 6),
        row("/a", 7),
        row("/A", 8),
        row("/a/a", 9),
    )


def test_bounds() -> None:
    with pytest.raises(ValueError, match="found listener 65536, allowed are numbers below 65536"):
        snapshot(row("/", 0, listener=65536))
    assert found(snapshot(row("/", 3, listener=65535)), "a", listener=65535) == 3
    pools = [row(f"/{number}", number) for number in range(4096)]
    assert found(snapshot(*pools), "a", "/4095/x") == 4095
    assert len(snapshot(*pools, row("/", 4095)).pools) == 4096
    with pytest.raises(ValueError, match="route 4096 names one pool more than the 4096"):
        snapshot(*pools, row("/", 4096))
    with pytest.raises(ValueError, match="found an address of 5 bytes, allowed are 0"):
        snapshot((0, b"12345", "", b"/", 0, 0, 0, 0, True))


def test_entries_of_other_types_are_refused() -> None:
    good = row("/", 0)
    for index, wrong in ((0, "x"), (0, -1), (1, ""), (2, b""), (3, "/"), (4, None), (5, 1 << 32)):
        entry = list(good)
        entry[index] = wrong
        with pytest.raises((TypeError, OverflowError, AttributeError)):
            snapshot(tuple(entry))
    with pytest.raises(ValueError, match="unpack"):
        snapshot(good[:-1])


# ---- many ----


def test_many_sites_and_prefixes() -> None:
    rows = [
        row(f"{'*.' if site % 10 == 0 else ''}s{site}.example/{path}", site * 5 + index, pool=1)
        for site in range(2000)
        for index, path in enumerate(("", "a", "a/b", "static", f"only/{site}"))
    ]
    made = snapshot(*rows)
    for site in range(0, 2000, 7):
        host = f"{'www.' if site % 10 == 0 else ''}s{site}.example"
        paths = ("/x", "/a/x", "/a/b/x", "/static", f"/only/{site}/x")
        assert [found(made, host, path) for path in paths] == [site * 5 + n for n in range(5)]
        assert found(made, host, f"/only/{site + 1}/x") == site * 5
    assert made.bytes < 200 * len(rows)
