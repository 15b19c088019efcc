"""Sites: what their bindings say, which sockets they need, and which routes the core gets of them.

A binding is IP:PORT:HOST as in IIS: where to listen, and which host names are meant there. HOST is
"+" (every host, before all others), a name, "*.name" (any one label before it), or empty (what no
other binding wants).

Facts: Linux refuses a socket for one address of a port on which another listens for all, so a port
with "*" has one socket, and its bindings to single addresses become routes that are bound to the
connection's local address. Without "*" each address has a socket of its own, so that nothing is
open which nobody asked for.
"""

import functools
import ipaddress
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kernelq.binding import Binding, SiteBinding, parse_binding
from kernelq.config import ApplicationSettings, SiteSettings

_ALLOWED = (
    'allowed is IP:PORT:HOST, such as "*:80:", "127.0.0.1:8000:shop.example" or '
    '"[::1]:8000:*.shop.example", unix:PATH:HOST, or fd://N:HOST'
)
_HOST_ALLOWED = (
    'allowed is nothing (what no other binding wants), "+" (every host, before all others), a '
    'name, or "*." and a name'
)
_TCP = re.compile(r"(?P<address>\[[^\]]*\]|[^:\[\]]*):(?P<port>[0-9]+)(?::(?P<host>.*))?", re.S)
_PASSED = re.compile(r"(?P<endpoint>fd://[^:]*)(?::(?P<host>.*))?", re.S)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NAME_BYTES_MAX = 253
PREFIX_BYTES_MAX = 2048  # of an application's path, as in core/route.pxd
PREFIX_SEGMENTS_MAX = 64
_EVERYWHERE = "*"
_EVERY_V4 = "0.0.0.0"
_EVERY_V6 = "::"

# (listener, address, host, prefix, application, pool, site, generation, is enabled)
Route = tuple[int, bytes, str, bytes, int, int, int, int, bool]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a binding's requests arrive: at a socket and, if that is there for several addresses,
    at one of them (4 or 16 bytes; empty: any).
    """

    socket: Binding
    address: bytes = b""


@dataclass(frozen=True, slots=True)
class Use:
    """A binding of a site, each by its place in the order."""

    site: int
    binding: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two bindings that cannot be together; the second came later. The text names both."""

    first: Use
    second: Use
    text: str


# Parsing.


def parse_site_binding(text: str) -> SiteBinding:
    """ValueError says what was found and what is allowed."""
    if text.startswith("unix:"):
        return _parse_unix(text)
    found = (_PASSED if text.startswith("fd://") else _TCP).fullmatch(text)
    if found is None:
        raise ValueError(f"found {text!r}, {_ALLOWED}")
    host = parse_host(found["host"] or "")
    if text.startswith("fd://"):
        return SiteBinding(_endpoint(found["endpoint"], text), host)
    return SiteBinding(_tcp_endpoint(found["address"], found["port"]), host)


def parse_host(text: str) -> str:
    """The host of a binding as it is compared: in lower case. ValueError."""
    if text in ("", "+"):
        return text
    if not text.isascii():
        raise ValueError(f"found the host {text!r}, allowed are ASCII names{_as_ascii(text)}")
    host = text.lower().removesuffix(".")
    if host.startswith("[") and host.endswith("]"):
        return f"[{_address(host[1:-1], text, 6)}]"
    name = host.removeprefix("*.")
    if name == "*":
        raise ValueError(f"found the host {text!r}, {_HOST_ALLOWED}")
    if "*" in name:
        raise ValueError(
            f"found the host {text!r}, allowed is a * in place of the first label only, such as "
            '"*.example.org"'
        )
    if name.startswith("[") or not all(map(_LABEL.fullmatch, name.split("."))):
        raise ValueError(
            f"found the host {text!r}, {_HOST_ALLOWED}: labels of letters, digits, - and _, with "
            "dots between, without a port"
        )
    if len(name) > _NAME_BYTES_MAX:
        raise ValueError(
            f"found a host of {len(name)} characters, allowed are at most {_NAME_BYTES_MAX}"
        )
    return host


def parse_site_path(text: str) -> str:
    """The path of an application: "/", or "/a/b" without a slash at the end. ValueError."""
    path = text.rstrip("/") or "/"
    segments = path[1:].split("/")
    if not text.startswith("/") or (path != "/" and "" in segments):
        raise ValueError(f'found the path {text!r}, allowed is "/" or one such as "/shop"')
    if any(segment in (".", "..") for segment in segments):
        raise ValueError(f"found the path {text!r}, allowed is one without dot segments")
    if any(character < " " or character == "\x7f" for character in path):
        raise ValueError(f"found the path {text!r}, allowed is one without control characters")
    if len(path.encode()) > PREFIX_BYTES_MAX or len(segments) > PREFIX_SEGMENTS_MAX:
        raise ValueError(
            f"found a path of {len(segments)} segments and {len(path.encode())} bytes, allowed are "
            f"at most {PREFIX_SEGMENTS_MAX} and {PREFIX_BYTES_MAX}"
        )
    return path


def _parse_unix(text: str) -> SiteBinding:
    # What follows the last colon is the host, unless it has a slash: then it belongs to the path.
    endpoint, _, host = text.rpartition(":")
    if endpoint == "unix" or "/" in host:
        endpoint, host = text, ""
    return SiteBinding(_endpoint(endpoint, text), parse_host(host))


def _endpoint(endpoint: str, text: str) -> Binding:
    try:
        return parse_binding(endpoint)
    except ValueError as found:
        raise ValueError(f"found {text!r}, allowed is {found}") from None


@functools.lru_cache(maxsize=1024)
def _tcp_endpoint(address: str, port: str) -> Binding:
    if len(port) > 5 or int(port) > 65535:
        raise ValueError(f"found the port {port}, allowed are 0 to 65535")
    if address == _EVERYWHERE:
        return Binding("tcp", host=_EVERYWHERE, port=int(port))
    if address.startswith("["):
        host = _address(address[1:-1], address, 6)
        return Binding("tcp", host=host, port=int(port), bracketed=True)
    if not address:
        raise ValueError(f'found no address before ":{port}", allowed is "*" for all of them')
    return Binding("tcp", host=_address(address, address, 4), port=int(port))


def _address(address: str, text: str, version: int) -> str:
    """In its canonical form."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        found = None
    if found is None or found.version != version:
        hint = "an IPv6 address in brackets" if version == 6 else "an IP address"
        example = "[::1]" if version == 6 else "127.0.0.1"
        raise ValueError(
            f'found {text!r} in place of {hint}, allowed is one such as {example}, or "*"; the '
            "name of a host stands behind the port"
        )
    return str(found)


def _as_ascii(text: str) -> str:
    """How to write it, if that can be told."""
    prefix, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    try:
        return f': write it as "{prefix}{name.encode("idna").decode()}" (IDNA)'
    except UnicodeError:
        return ""


def find_host(bindings: Iterable[SiteBinding]) -> str:
    """A host that a request to the site may name: its first binding's that has a name."""
    for binding in bindings:
        if binding.host not in ("", "+"):
            return binding.host.replace("*.", "www.", 1)
    return "localhost"


# Sockets.


def find_places(sites: Sequence[SiteSettings]) -> tuple[dict[Binding, Place], list[Conflict]]:
    """Where the requests of each endpoint arrive, and what cannot be opened together."""
    users: dict[Binding, Use] = {}
    for number, site in enumerate(sites):
        for place, binding in enumerate(site.bindings):
            users.setdefault(binding.endpoint, Use(number, place))
    ports: dict[int, dict[str, Binding]] = {}
    for endpoint in users:
        if _shares_a_port(endpoint):
            ports.setdefault(endpoint.port, {})[endpoint.host] = endpoint
    conflicts = [
        _port_conflict(sites, users[one], users[wide], one, wide)
        for endpoints in ports.values()
        for one, wide in _port_conflicts(endpoints)
    ]
    return {endpoint: _place(endpoint, ports) for endpoint in users}, conflicts


def find_sockets(sites: Iterable[SiteSettings]) -> tuple[Binding, ...]:
    """What has to be opened, in the order of the sites. ValueError in words, one line for each
    thing that is wrong.
    """
    sites = tuple(sites)
    places = _places_of(sites)
    bindings = (binding.endpoint for site in sites for binding in site.bindings)
    return tuple(dict.fromkeys(places[endpoint].socket for endpoint in bindings))


def _places_of(sites: Sequence[SiteSettings]) -> dict[Binding, Place]:
    places, conflicts = find_places(sites)
    if conflicts:
        raise ValueError("\n".join(conflict.text for conflict in conflicts))
    return places


def _shares_a_port(endpoint: Binding) -> bool:
    # The kernel gives each socket with port 0 a port of its own.
    return endpoint.kind == "tcp" and endpoint.port != 0


def _place(endpoint: Binding, ports: Mapping[int, Mapping[str, Binding]]) -> Place:
    if not _shares_a_port(endpoint):
        return Place(endpoint)
    same_port = ports[endpoint.port]
    packed = _packed(endpoint.host)
    every = _EVERY_V6 if len(packed) == 16 else _EVERY_V4
    for wide in (_EVERYWHERE, every):
        if packed and wide != endpoint.host and wide in same_port:
            return Place(same_port[wide], packed)
    return Place(endpoint)


def _packed(host: str) -> bytes:
    """The bytes of an address; none for "*" and names."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).packed
    except ValueError:
        return b""


def _port_conflicts(endpoints: Mapping[str, Binding]) -> Iterator[tuple[Binding, Binding]]:
    """Of one port: what can be no route of a wildcard's socket, and that wildcard."""
    wildcards = [
        endpoints[host] for host in (_EVERYWHERE, _EVERY_V4, _EVERY_V6) if host in endpoints
    ]
    for endpoint in endpoints.values():
        is_half = endpoint.host in (_EVERY_V4, _EVERY_V6)
        for wide in wildcards:
            if _is_name(endpoint) or (is_half and wide.host == _EVERYWHERE):
                yield endpoint, wide
                break


def _is_name(endpoint: Binding) -> bool:
    return endpoint.host != _EVERYWHERE and not _packed(endpoint.host)


def _port_conflict(
    sites: Sequence[SiteSettings], user: Use, wide_user: Use, endpoint: Binding, wide: Binding
) -> Conflict:
    remedy = "write its address" if _is_name(endpoint) else f"write {wide} for both"
    text = (
        f"site {sites[user.site].name!r} listens on {endpoint} and site "
        f"{sites[wide_user.site].name!r} on {wide}, which cannot be told apart: {remedy}"
    )
    first, second = sorted((user, wide_user), key=lambda use: (use.site, use.binding))
    return Conflict(first, second, text)


# Routes.


def find_conflicts(sites: Sequence[SiteSettings]) -> list[Conflict]:
    """Bindings that cannot be opened together, or are for the same requests."""
    places, conflicts = find_places(sites)
    taken: dict[tuple[Place, str], dict[str, Use]] = {}
    for number, site in enumerate(sites):
        own = dict.fromkeys(application.path for application in site.applications)
        for place, binding in enumerate(site.bindings):
            paths = taken.setdefault((places[binding.endpoint], binding.host), {})
            use = Use(number, place)
            others = {paths.setdefault(path, use): path for path in own}
            others.pop(use, None)
            conflicts += (_conflict(sites, other, use, path) for other, path in others.items())
    return conflicts


def make_routes(
    sites: Iterable[SiteSettings],
    listeners: Mapping[str, Sequence[int]],
    target: Callable[[ApplicationSettings], tuple[int, int]],
    stopped: Container[str] = (),
) -> list[Route]:
    """What Core.set_routes() takes.

    listeners: the core's numbers of the sockets of each of find_sockets(), as text: a name may have
    several addresses, and so several sockets. target: of an application its pool's number and the
    least generation of the workers that know it. stopped: sites by name, answered with 503. A
    site's number is its place in the order.
    """
    sites = tuple(sites)
    places = _places_of(sites)
    routes: list[Route] = []
    for number, site in enumerate(sites):
        is_enabled = site.name not in stopped
        targets = [(one.path.encode(), one.number, *target(one)) for one in site.applications]
        for binding in site.bindings:
            place, host = places[binding.endpoint], binding.host
            for listener in listeners[str(place.socket)]:
                routes += [
                    (
                        listener,
                        place.address,
                        host,
                        prefix,
                        application,
                        pool,
                        number,
                        generation,
                        is_enabled,
                    )
                    for prefix, application, pool, generation in targets
                ]
    return routes


def _conflict(sites: Sequence[SiteSettings], first: Use, second: Use, path: str) -> Conflict:
    site, other = sites[first.site], sites[second.site]
    binding, other_binding = site.bindings[first.binding], other.bindings[second.binding]
    if site is not other:
        text = (
            f"site {site.name!r} ({binding}) and site {other.name!r} ({other_binding}) both have "
            f"the path {path!r} there: another host, port or path for one of them tells them apart"
        )
    elif binding == other_binding:
        text = f"site {site.name!r} has the binding {binding} twice"
    else:
        text = f"site {site.name!r} has {binding} and {other_binding}, which are the same"
    return Conflict(first, second, text)
