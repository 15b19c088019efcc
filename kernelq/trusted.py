"""The option --forwarded-allow-ips: which peers may speak for their clients."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

NETWORK_MAX = 128

_ANY = 1
_UNIX = 2


def pack_trusted(entries: Iterable[str]) -> bytes:
    """Check the entries and turn them into the table that the core reads.

    An entry is an address, a network in CIDR notation, "unix" (peers on unix sockets) or "*"
    (everybody). The result holds one byte of flags, then 16 bytes of address and one of prefix
    length for each network; IPv4 stands in it as ::ffff:a.b.c.d. Raises ValueError with a text
    for the user.
    """
    flags = 0
    networks: list[bytes] = []
    for entry in entries:
        text = entry.strip()
        if text == "*":
            flags |= _ANY
        elif text == "unix":
            flags |= _UNIX
        else:
            networks.append(_pack_network(text))
    if len(networks) > NETWORK_MAX:
        raise ValueError(f"more than {NETWORK_MAX} networks of trusted proxies")
    return bytes([flags]) + b"".join(networks)


def _pack_network(text: str) -> bytes:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"not an address, a network, 'unix' or '*': {error}") from None
    address = network.network_address.packed
    if network.version == 4:
        return bytes(10) + b"\xff\xff" + address + bytes([96 + network.prefixlen])
    return address + bytes([network.prefixlen])
