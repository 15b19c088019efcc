"""Sites: bindings in words, the sockets that they need, conflicts, and the routes of the core."""

from __future__ import annotations

import re

import pytest

from kernelq import _coretest, sites
from kernelq.binding import Binding, SiteBinding
from kernelq.config import ApplicationSettings, SiteSettings

ANY_80 = Binding("tcp", "*", 80)
LOCAL_80 = Binding("tcp", "127.0.0.1", 80)
LOCAL_V6_80 = Binding("tcp", "::1", 80, bracketed=True)


def site(name: str, *bindings: str, paths: tuple[str, ...] = ("/",)) -> SiteSettings:
    return SiteSettings(
        name,
        tuple(map(sites.parse_site_binding, bindings)),
        tuple(
            ApplicationSettings(path, pool="default", number=number, site=name)
            for number, path in enumerate(paths)
        ),
    )


def conflicts_of(some: list[SiteSettings]) -> list[str]:
    return [conflict.text for conflict in sites.find_conflicts(some)]


# ---- bindings ----


@pytest.mark.parametrize(
    ("text", "endpoint", "host"),
    [
        ("*:80:", ANY_80, ""),
        ("*:80", ANY_80, ""),
        ("*:80:+", ANY_80, "+"),
        ("*:080:", ANY_80, ""),
        ("127.0.0.1:80:shop.example", LOCAL_80, "shop.example"),
        ("127.0.0.1:80:*.Shop.Example.", LOCAL_80, "*.shop.example"),
        ("127.0.0.1:80:localhost", LOCAL_80, "localhost"),
        ("127.0.0.1:80:192.0.2.1", LOCAL_80, "192.0.2.1"),
        ("127.0.0.1:80:[2001:DB8::0:1]", LOCAL_80, "[2001:db8::1]"),
        ("127.0.0.1:80:xn--bcher-kva.example", LOCAL_80, "xn--bcher-kva.example"),
        ("127.0.0.1:80:a_b.example", LOCAL_80, "a_b.example"),
        ("[::1]:80:", LOCAL_V6_80, ""),
        ("[0:0::1]:80:a", LOCAL_V6_80, "a"),
        ("*:0:", Binding("tcp", "*", 0), ""),
        ("unix:/run/a.sock", Binding("unix", path="/run/a.sock"), ""),
        ("unix:/run/a.sock:", Binding("unix", path="/run/a.sock"), ""),
        ("unix:/run/a.sock:+", Binding("unix", path="/run/a.sock"), "+"),
        ("unix:/run/a:b/c.sock", Binding("unix", path="/run/a:b/c.sock"), ""),
        ("unix:/run/a:b.sock:", Binding("unix", path="/run/a:b.sock"), ""),
        ("fd://3", Binding("fd", descriptor=3), ""),
        ("fd://3:*.a", Binding("fd", descriptor=3), "*.a"),
    ],
)
def test_bindings(text: str, endpoint: Binding, host: str) -> None:
    binding = sites.parse_site_binding(text)
    assert binding == SiteBinding(endpoint, host)
    assert sites.parse_site_binding(str(binding)) == binding


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "allowed is IP:PORT:HOST"),
        ("80", "allowed is IP:PORT:HOST"),
        ("shop.example", "allowed is IP:PORT:HOST"),
        ("127.0.0.1:http:", "allowed is IP:PORT:HOST"),
        ("::1:80:", "allowed is IP:PORT:HOST"),
        ("http://a:80/", "allowed is IP:PORT:HOST"),
        (":80:", 'found no address before ":80", allowed is "*" for all of them'),
        ("127.0.0.1:65536:", "found the port 65536, allowed are 0 to 65535"),
        ("127.0.0.1:99999999999:", "found the port 99999999999, allowed"),
        ("localhost:80:", "found 'localhost' in place of an IP address, allowed is one such as"),
        ("1.2.3:80:", "found '1.2.3' in place of an IP address"),
        ("[127.0.0.1]:80:", "found '[127.0.0.1]' in place of an IPv6 address in brackets"),
        ("[::g]:80:", "found '[::g]' in place of an IPv6 address in brackets"),
        ("*:80:*", "found the host '*', allowed is nothing (what no other binding wants), \"+\""),
        ("*:80:*.", "found the host '*.', allowed is nothing"),
        ("*:80:a.*.b", 'a * in place of the first label only, such as "*.example.org"'),
        ("*:80:*a.b", "a * in place of the first label only"),
        ("*:80:a:80", "found the host 'a:80', allowed is nothing"),
        ("*:80:a b", "found the host 'a b', allowed is nothing"),
        ("*:80:a/b", "found the host 'a/b', allowed is nothing"),
        ("*:80:a..b", "found the host 'a..b'"),
        ("*:80:-a", "found the host '-a'"),
        ("*:80:a\n", "found the host 'a\\n'"),
        ("*:80:" + "a" * 64, "labels of letters, digits, - and _"),
        ("*:80:" + "a." * 126 + "ab", "found a host of 254 characters, allowed are at most 253"),
        ("*:80:[::g]", "found '[::g]' in place of an IPv6 address"),
        ("*:80:bücher.example", 'allowed are ASCII names: write it as "xn--bcher-kva.example"'),
        ("*:80:*.bücher.example", 'write it as "*.xn--bcher-kva.example"'),
        ("*:80:ü..example", "allowed are ASCII names"),
        ("unix:", "found 'unix:', allowed is unix:PATH"),
        ("unix:/" + "x" * 200, "allowed is unix:PATH with a path of 1 to 107 bytes"),
        ("fd://", "found 'fd://', allowed is fd://N"),
        ("fd://x:a", "found 'fd://x:a', allowed is fd://N"),
    ],
)
def test_bad_bindings(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        sites.parse_site_binding(text)


@pytest.mark.parametrize(
    ("bindings", "host"),
    [
        ([], "localhost"),
        (["*:80:", "*:80:+"], "localhost"),
        (["*:80:+", "*:81:b.example", "*:81:c.example"], "b.example"),
        (["*:80:*.b.example"], "www.b.example"),
    ],
)
def test_a_host_to_ask_for(bindings: list[str], host: str) -> None:
    assert sites.find_host(map(sites.parse_site_binding, bindings)) == host


@pytest.mark.parametrize(
    ("text", "path"),
    [("/", "/"), ("/a", "/a"), ("/a/", "/a"), ("/a/b//", "/a/b"), ("//", "/"), ("/ä b", "/ä b")],
)
def test_paths(text: str, path: str) -> None:
    assert sites.parse_site_path(text) == path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 'found the path \'\', allowed is "/" or one such as "/shop"'),
        ("shop", "allowed is"),
        ("/a//b", "allowed is"),
        ("/a/../b", "without dot segments"),
        ("/.", "without dot segments"),
        ("/a\0", "without control characters"),
        ("/a" * 65, "found a path of 65 segments and 130 bytes, allowed are at most 64 and 2048"),
        ("/" + "ä" * 1024, "found a path of 1 segments and 2049 bytes"),
    ],
)
def test_bad_paths(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        sites.parse_site_path(text)


# ---- sockets ----


@pytest.mark.parametrize(
    ("bindings", "sockets"),
    [
        (["127.0.0.1:80:", "127.0.0.1:80:a", "127.0.0.2:80:"], ["127.0.0.1:80", "127.0.0.2:80"]),
        (["127.0.0.1:80:", "*:80:", "[::1]:80:"], ["*:80"]),
        (["*:80:a", "127.0.0.1:81:"], ["*:80", "127.0.0.1:81"]),
        (["0.0.0.0:80:", "127.0.0.1:80:", "[::1]:80:"], ["0.0.0.0:80", "[::1]:80"]),
        (["[::]:80:", "127.0.0.1:80:", "[::1]:80:"], ["[::]:80", "127.0.0.1:80"]),
        (["[::]:80:", "0.0.0.0:80:"], ["[::]:80", "0.0.0.0:80"]),
        (["*:0:", "127.0.0.1:0:", "127.0.0.1:0:a"], ["*:0", "127.0.0.1:0"]),
        (["unix:/a:", "unix:/a:x", "fd://3", "fd://4:x"], ["unix:/a", "fd://3", "fd://4"]),
    ],
)
def test_sockets(bindings: list[str], sockets: list[str]) -> None:
    assert [str(endpoint) for endpoint in sites.find_sockets([site("a", *bindings)])] == sockets
    apart = [site(str(number), binding) for number, binding in enumerate(bindings)]
    assert [str(endpoint) for endpoint in sites.find_sockets(apart)] == sockets


def test_places_of_addresses_on_a_shared_socket() -> None:
    places, conflicts = sites.find_places([site("a", "*:80:", "127.0.0.1:80:", "[::1]:80:")])
    assert not conflicts
    assert places == {
        ANY_80: sites.Place(ANY_80),
        LOCAL_80: sites.Place(ANY_80, b"\x7f\0\0\1"),
        LOCAL_V6_80: sites.Place(ANY_80, bytes(15) + b"\1"),
    }


def test_wildcards_that_cannot_be_told_apart() -> None:
    name = SiteSettings("named", (SiteBinding(Binding("tcp", "localhost", 80)),))
    both = [site("wide", "*:80:"), site("half", "0.0.0.0:80:"), name]
    with pytest.raises(ValueError) as found:
        sites.find_sockets(both)
    assert str(found.value).split("\n") == [
        "site 'half' listens on 0.0.0.0:80 and site 'wide' on *:80, which cannot be told apart: "
        "write *:80 for both",
        "site 'named' listens on localhost:80 and site 'wide' on *:80, which cannot be told apart: "
        "write its address",
    ]
    assert conflicts_of(both) == str(found.value).split("\n")
    assert [str(one) for one in sites.find_sockets([name])] == ["localhost:80"]


# ---- conflicts ----


def test_sites_that_get_along() -> None:
    assert not conflicts_of(
        [
            site("a", "*:80:", "*:80:+", "*:81:", paths=("/", "/x")),
            site("b", "127.0.0.1:80:", "*:80:b.example", "*:80:*.b.example"),
            site("c", "*:80:", paths=("/c",)),
            site("d"),
        ]
    )


def test_conflicts_name_both() -> None:
    found = conflicts_of(
        [
            site("a", "127.0.0.1:80:n.example", paths=("/", "/x")),
            site("b", "*:80:", "127.0.0.1:80:N.example", paths=("/y", "/x")),
        ]
    )
    assert found == [
        "site 'a' (127.0.0.1:80:n.example) and site 'b' (127.0.0.1:80:n.example) both have the "
        "path '/x' there: another host, port or path for one of them tells them apart"
    ]


def test_conflicts_say_where() -> None:
    found = sites.find_conflicts(
        [
            site("a", "0.0.0.0:81:", "*:80:", "*:80:x"),
            site("b", "*:82:", "*:80:x", "*:81:"),
        ]
    )
    assert [(one.first, one.second) for one in found] == [
        (sites.Use(0, 0), sites.Use(1, 2)),
        (sites.Use(0, 2), sites.Use(1, 1)),
    ]


def test_a_site_that_is_in_its_own_way() -> None:
    twice = sites.parse_site_binding("*:80:a")
    assert conflicts_of([SiteSettings("a", (twice, twice)), site("b", "[::1]:80:b")]) == [
        "site 'a' has the binding *:80:a twice",
    ]


def test_equal_places_that_are_written_differently() -> None:
    zones = tuple(
        SiteBinding(Binding("tcp", host, 80, bracketed=True)) for host in ("fe80::1%a", "fe80::1%b")
    )
    (found,) = conflicts_of([site("w", "*:80:x"), SiteSettings("a", zones)])
    assert found == "site 'a' has [fe80::1%a]:80: and [fe80::1%b]:80:, which are the same"


def test_every_conflict_is_told_once() -> None:
    paths = tuple(f"/{number}" for number in range(50))
    three = [site(name, "*:80:", paths=paths) for name in "abc"]
    assert [line[:10] for line in conflicts_of(three)] == ["site 'a' ("] * 2


# ---- routes ----


def test_routes() -> None:
    two = [
        site("a", "*:80:", "127.0.0.1:80:n.example", paths=("/", "/ä")),
        site("b", "unix:/run/b.sock"),
    ]
    unix = Binding("unix", path="/run/b.sock")
    made = sites.make_routes(
        two, {str(ANY_80): (3, 4), str(unix): (5,)}, lambda application: (7, 70), {"b"}
    )
    local = b"\x7f\0\0\1"
    assert made == [
        (3, b"", "", b"/", 0, 7, 0, 70, True),
        (3, b"", "", "/ä".encode(), 1, 7, 0, 70, True),
        (4, b"", "", b"/", 0, 7, 0, 70, True),
        (4, b"", "", "/ä".encode(), 1, 7, 0, 70, True),
        (3, local, "n.example", b"/", 0, 7, 0, 70, True),
        (3, local, "n.example", "/ä".encode(), 1, 7, 0, 70, True),
        (4, local, "n.example", b"/", 0, 7, 0, 70, True),
        (4, local, "n.example", "/ä".encode(), 1, 7, 0, 70, True),
        (5, b"", "", b"/", 0, 7, 1, 70, False),
    ]
    snapshot = _coretest.RouteSnapshot(made)
    assert snapshot.find(3, local, b"n.example", "/ä/x".encode())[:3] == (1, 7, 0)


def test_routes_of_sites_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="cannot be told apart"):
        sites.make_routes([site("a", "*:80:", "0.0.0.0:80:")], {}, lambda application: (0, 0))


def test_what_the_parsers_take_the_core_takes() -> None:
    texts = ["", "+", "a", "*.a", "A.b_c-d.", "[::1]", "127.0.0.1", "a" * 63 + ".b"]
    paths = ("/", "/a/", "/ä b", "/" + "a" * 2047, "/a" * 64)
    rows = sites.make_routes(
        [
            SiteSettings(
                "a",
                tuple(SiteBinding(ANY_80, sites.parse_host(text)) for text in texts),
                tuple(ApplicationSettings(sites.parse_site_path(path)) for path in paths),
            )
        ],
        {str(ANY_80): (0,)},
        lambda application: (0, 0),
    )
    assert len(rows) == len(texts) * len(paths)
    _coretest.RouteSnapshot(rows)
