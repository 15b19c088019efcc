"""Bindings of sites: how they are written, and which of them exclude each other."""

from collections.abc import Iterator, Sequence

from kernelq.binding import SiteBinding, parse_binding
from kernelq.config import SiteSettings


def parse_site_binding(text: str) -> SiteBinding:
    """ENDPOINT, ENDPOINT: or ENDPOINT:HOST; ValueError says what is allowed."""
    try:
        return SiteBinding(parse_binding(text.removesuffix(":")))
    except ValueError:
        endpoint, colon, host = text.rpartition(":")
        if not colon:
            raise
        return SiteBinding(parse_binding(endpoint), host.lower().rstrip("."))


def find_conflicts(
    sites: Sequence[SiteSettings],
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Pairs of bindings, by numbers of site and binding, that want the same requests."""
    seen: dict[SiteBinding, tuple[int, int]] = {}
    for number, site in enumerate(sites):
        for place, binding in enumerate(site.bindings):
            first = seen.setdefault(binding, (number, place))
            if first != (number, place):
                yield first, (number, place)
