"""What the response cache holds and has done, as lines of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from kernelq.columns import Column, clean, table
from kernelq.units import GIB, KIB, MIB

_COLUMNS = (
    Column("STATUS", is_number=True),
    Column("SIZE", is_number=True),
    Column("AGE", is_number=True),
    Column("FRESH", is_number=True),
    Column("URL", least=20),
)

# The names of HTTP.sys ("HTTP Service" in perfmon) where it has them.
_COUNTERS = {
    "cache_uris_now": "CurrentUrisCached",
    "cache_uris_total": "TotalUrisCached",
    "cache_hits": "UriCacheHits",
    "cache_misses": "UriCacheMisses",
    "cache_flushes": "UriCacheFlushes",
    "cache_flushed": "TotalFlushedUris",
    "cache_bytes": "Bytes",
    "cache_evicted": "Evicted",
    "cache_scavenged": "Scavenged",
    "cache_collapsed": "Collapsed",
    "cache_revalidated": "Revalidated",
    "cache_stale": "Stale",
    "cache_bypassed": "Bypassed",
}


def counter_lines(counters: Mapping[str, int]) -> list[str]:
    return [f"{shown:<20}{counters.get(name, 0):>16,}" for name, shown in _COUNTERS.items()]


def entry_table(entries: Sequence[Mapping[str, Any]], room: int) -> list[str]:
    """What `cache list` shows, by URL."""
    rows = [_row(entry) for entry in sorted(entries, key=lambda entry: str(entry["key"]))]
    return table(_COLUMNS, rows, room)


def entry_lines(entry: Mapping[str, Any]) -> list[str]:
    """All that is known of one stored response."""
    lines = []
    for name, value in entry.items():
        text = "yes" if value is True else "no" if value is False else str(value)
        lines.append(f"{clean(name) + ':':<16}{clean(text)}")
    return lines


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    left = int(entry["lifetime"]) - int(entry["age"])
    fresh = "flushed" if entry.get("flushed") else _time(left) if left > 0 else "stale"
    size, age = _size(int(entry["bytes"])), _time(int(entry["age"]))
    return (str(entry["status"]), size, age, fresh, clean(str(entry["key"])))


def _time(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _size(count: int) -> str:
    for unit, size in (("G", GIB), ("M", MIB), ("K", KIB)):
        if count >= 10 * size:
            return f"{count // size}{unit}"
    return str(count)
