"""Whom a trusted proxy speaks for, and whom nobody is believed about."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelq import _coretest
from kernelq.trusted import NETWORK_MAX, pack_trusted

LOOPBACK = bytes([127, 0, 0, 1])
UNIX = b""
TRUSTED = pack_trusted(["127.0.0.1", "10.0.0.0/8", "2001:db8::/32", "unix"])

Answer = tuple[bool, str | None, bytes, bytes]


def resolve(*lines: str, peer: bytes = LOOPBACK, packed: bytes = TRUSTED) -> Answer:
    section = "".join(f"{line}\r\n" for line in lines)
    head = f"GET / HTTP/1.1\r\nHost: own\r\n{section}\r\n".encode("latin-1")
    answer: Answer = _coretest.resolve_forwarded(_coretest.HeadParser(), head, peer, packed)
    return answer


def client(*lines: str, **options: bytes) -> str:
    return resolve(*lines, **options)[2].decode()


def test_an_untrusted_peer_is_not_believed() -> None:
    lines = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: b")
    assert resolve(*lines, peer=bytes([192, 0, 2, 9])) == (False, None, b"", b"")
    assert resolve("Forwarded: for=192.0.2.1", peer=bytes(16)) == (False, None, b"", b"")


def test_nobody_is_trusted_by_an_empty_table() -> None:
    for peer in (LOOPBACK, UNIX, bytes(16)):
        assert resolve("X-Forwarded-For: 192.0.2.1", peer=peer, packed=pack_trusted([]))[0] is False


@pytest.mark.parametrize(
    "peer",
    [
        LOOPBACK,
        bytes([10, 255, 1, 2]),
        UNIX,
        ipaddress.ip_address("2001:db8:1::1").packed,
        ipaddress.ip_address("::ffff:10.1.2.3").packed,
    ],
)
def test_trusted_peers(peer: bytes) -> None:
    lines = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: b:81")
    assert resolve(*lines, peer=peer) == (True, "https", b"192.0.2.1", b"b:81")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["198.51.100.7, 192.0.2.1"], "192.0.2.1"),
        (["198.51.100.7, 192.0.2.1, 10.1.1.1"], "192.0.2.1"),
        (["198.51.100.7", "192.0.2.1", "10.1.1.1, 10.1.1.2"], "192.0.2.1"),
        (["10.1.1.1, 10.1.1.2"], "10.1.1.1"),
        (["127.0.0.1"], "127.0.0.1"),
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["[2001:db9::1]:4711"], "2001:db9::1"),
        (["[2001:db9::1]"], "2001:db9::1"),
        (["2001:db9::1"], "2001:db9::1"),
        (["2001:db9::1, 2001:db8::5"], "2001:db9::1"),
        (["192.0.2.1, ::ffff:10.0.0.1"], "192.0.2.1"),
        ([" , 192.0.2.1 ,, "], "192.0.2.1"),
        # Nobody vouches for what stands left of an entry that is no address.
        (["unknown"], ""),
        (["192.0.2.1, unknown"], ""),
        (["192.0.2.1, unknown, 10.0.0.1"], "10.0.0.1"),
        (["192.0.2.1, 10.0.0.300"], ""),
        (["192.0.2.1, 10.0.0.1:x y"], ""),
        (["192.0.2.1, [10.0.0.1]"], ""),
        (["192.0.2.1, [::1"], ""),
        (["192.0.2.1, [::1]80"], ""),
        ([""], ""),
    ],
)
def test_x_forwarded_for(entries: list[str], expected: str) -> None:
    assert client(*(f"X-Forwarded-For: {entry}" for entry in entries)) == expected


def test_everybody_is_trusted_by_a_star() -> None:
    packed = pack_trusted(["*"])
    for peer in (bytes([192, 0, 2, 9]), UNIX, bytes(16)):
        assert client("X-Forwarded-For: 198.51.100.7, 192.0.2.1", peer=peer, packed=packed) == (
            "198.51.100.7"
        )


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        ("http", "http"),
        ("HTTPS", "https"),
        ("ws", "http"),
        ("wss", "https"),
        ("http, https", "https"),
        ("ftp", None),
        ("", None),
        ("https, ", "https"),
        ("https http", None),
        ("https:", None),
    ],
)
def test_x_forwarded_proto(value: str, scheme: str | None) -> None:
    assert resolve(f"X-Forwarded-Proto: {value}") == (True, scheme, b"", b"")


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("b", b"b"),
        ("a, b:8080", b"b:8080"),
        ("[::1]:1", b"[::1]:1"),
        ("a b", b""),
        ("b/c", b""),
        ("u@b", b""),
        ("b:x", b""),
        ("", b""),
        ("b,", b"b"),
    ],
)
def test_x_forwarded_host(value: str, host: bytes) -> None:
    assert resolve(f"X-Forwarded-Host: {value}") == (True, None, b"", host)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["for=192.0.2.1"], (None, b"192.0.2.1", b"")),
        (["For=192.0.2.1;PROTO=https;Host=b"], ("https", b"192.0.2.1", b"b")),
        (['for="192.0.2.1:80"; proto="wss" ; host="b:1"'], ("https", b"192.0.2.1", b"b:1")),
        (['for="[2001:db9::1]:4711"'], (None, b"2001:db9::1", b"")),
        (["for=[2001:db9::1]:4711"], (None, b"2001:db9::1", b"")),
        (['for="[2001:db9::1]:_port"'], (None, b"2001:db9::1", b"")),
        (["for=198.51.100.7, for=192.0.2.1"], (None, b"192.0.2.1", b"")),
        (["for=192.0.2.1;proto=https, for=10.0.0.1;proto=http"], ("https", b"192.0.2.1", b"")),
        (["for=192.0.2.1;host=b", "for=10.0.0.1;host=c"], (None, b"192.0.2.1", b"b")),
        (['for="_a,b;c=\\"", for=192.0.2.1'], (None, b"192.0.2.1", b"")),
        (["for=192.0.2.1;ext=1;by=10.0.0.1;secret"], None),
        (["for=192.0.2.1;ext=1;by=10.0.0.1;"], (None, b"192.0.2.1", b"")),
        ([",, for=192.0.2.1 ,"], (None, b"192.0.2.1", b"")),
        # An obfuscated client is no address, but its proxy may still say how it was asked.
        (["for=_hidden;proto=https"], ("https", b"", b"")),
        (["for=unknown;host=b, for=10.0.0.1"], (None, b"10.0.0.1", b"b")),
        (["for=192.0.2.1, proto=https"], ("https", b"", b"")),
        (["for=192.0.2.1;host=a b"], None),
        (['for=192.0.2.1;host="a b"'], (None, b"192.0.2.1", b"")),
        (["for=192.0.2.1;proto=ftp"], (None, b"192.0.2.1", b"")),
        # Malformed: nothing is believed, whatever else stands there.
        (["for=192.0.2.1;for=192.0.2.2"], None),
        (['for="192.0.2.1'], None),
        (["for=192.0.2.1;proto"], None),
        (["for = 192.0.2.1"], None),
        (["for=;proto=https"], None),
        (["for=192.0.2.1", "=x"], None),
        (['for="192.0.2.1"x'], None),
        (['for="192.0.2.1\\'], None),
        ([""], (None, b"", b"")),
    ],
)
def test_forwarded(values: list[str], expected: tuple[str | None, bytes, bytes] | None) -> None:
    answer = resolve(*(f"Forwarded: {value}" for value in values))
    assert answer == (True, *(expected or (None, b"", b"")))


def test_x_forwarded_wins_over_forwarded() -> None:
    lines = ("Forwarded: for=198.51.100.7;proto=https;host=evil", "X-Forwarded-For: 192.0.2.1")
    assert resolve(*lines) == (True, None, b"192.0.2.1", b"")


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
hops = st.one_of(
    addresses, st.sampled_from(["10.0.0.1", "127.0.0.1", "2001:db8::1", "unknown", "x"])
)


def expected_client(entries: list[str]) -> str:
    """The definition: from the right, over trusted proxies."""
    found = ""
    for entry in reversed(entries):
        try:
            address = ipaddress.ip_address(entry)
        except ValueError:
            return found
        found = entry
        address = getattr(address, "ipv4_mapped", None) or address
        networks = ("127.0.0.1/32", "10.0.0.0/8", "2001:db8::/32")
        if not any(address in ipaddress.ip_network(network) for network in networks):
            return found
    return found


@given(st.lists(hops, max_size=6))
def test_right_most_untrusted(entries: list[str]) -> None:
    assert client(f"X-Forwarded-For: {', '.join(entries)}") == expected_client(entries)
    quoted = ", ".join(f'for="[{entry}]"' if ":" in entry else f"for={entry}" for entry in entries)
    assert client(f"Forwarded: {quoted}") == expected_client(entries)


@given(st.text('fordhst=;," \\_[]:.1a', max_size=60))
def test_any_text_is_read_or_ignored(value: str) -> None:
    for name in ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host"):
        trusted, _, address, host = resolve(f"{name}: {value}")
        assert trusted
        assert not address or ipaddress.ip_address(address.decode())
        assert not host or _coretest.check_host(host)


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_networks(base: ipaddress.IPv4Address, bits: int, peer: ipaddress.IPv4Address) -> None:
    network = ipaddress.ip_network((base, bits), strict=False)
    trusted = resolve("X-Forwarded-For: x", peer=peer.packed, packed=pack_trusted([str(network)]))[
        0
    ]
    assert trusted == (peer in network)


@pytest.mark.parametrize(
    "text", ["", "a", "10.0.0.1/8", "1.2.3", "10.0.0.0/33", "::1/129", "unix:"]
)
def test_bad_entries(text: str) -> None:
    with pytest.raises(ValueError, match="not an address, a network, 'unix' or '\\*'"):
        pack_trusted([text])


def test_too_many_entries() -> None:
    assert len(pack_trusted(["10.0.0.1"] * NETWORK_MAX)) == 1 + 17 * NETWORK_MAX
    with pytest.raises(ValueError, match="more than 128"):
        pack_trusted(["10.0.0.1"] * (NETWORK_MAX + 1))
