"""The commands of the control socket: one row each, from which the server checks requests and
docs/control.md is made.

A row says how a request may look and who may send it; what does it stands in control_commands.py
(in the socket's thread) or managed.py (on the managers' main thread).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernelq.shapes import PAGE

READ, ADMIN = "read", "admin"

ENTRIES_MAX = 1000  # of the cache's, in one answer
EVENTS_MAX = 1000
REQUESTS_MAX = 10_000
SECONDS = 30.0
RELOAD_SECONDS = 600.0

REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command; its type is that of the example."""

    name: str
    example: str | int | bool
    default: Any = REQUIRED
    help: str = ""
    least: int = 0  # of a number
    most: int = 2**63 - 1  # of a number; more is taken as this


@dataclass(frozen=True, slots=True)
class Row:
    """One command."""

    name: str
    level: str
    help: str
    answer: str  # what the answer holds
    arguments: tuple[Argument, ...] = ()
    seconds: float = SECONDS  # until a manager's answer is not waited for any more


def _page(most: int, what: str) -> Argument:
    return Argument("most", 100, most, f"how many {what} at most", 1, most)


_AFTER = Argument("after", "shop", "", "only names that come after this one, for the next page")
_POOL = Argument("pool", "shop", help="its name")
_SITE = Argument("site", "shop", help="its name")

ROWS = (
    Row("status", READ, "the server as a whole", "Status"),
    Row("pools", READ, "the pools with their queues and workers, by name", "Pools",
        (_page(PAGE, "pools"), _AFTER)),
    Row("sites", READ, "the sites with their bindings and applications, by name", "Sites",
        (_page(PAGE, "sites"), _AFTER)),
    Row("names", READ, "the names of all pools and sites", "Names"),
    Row("requests", READ, "what is queued and executed now, the oldest first in each pool",
        "Requests",
        (Argument("pool", "shop", "", "of this pool only"), _page(REQUESTS_MAX, "requests"))),
    Row("match", READ, "which site, application and pool would answer a URL", "Match",
        (Argument("url", "http://shop.example/cart", help="absolute"),)),
    Row("events", READ, "the last events (docs/events.md), and with follow those to come", "Events",
        (Argument("since", 17, 0, "only with a higher serial"),
         _page(EVENTS_MAX, "past events, the newest,"),
         Argument("follow", True, False, "go on with one line for each further event"))),
    Row("recycle", ADMIN, "replace the pool's workers; requests do not notice", "PoolState",
        (_POOL,)),
    Row("pool.start", ADMIN, "start a pool that was stopped, or taken offline", "PoolState",
        (_POOL,)),
    Row("pool.stop", ADMIN, "stop a pool: what runs finishes, what comes gets 503", "PoolState",
        (_POOL,)),
    Row("site.start", ADMIN, "start a site that was stopped", "SiteState", (_SITE,)),
    Row("site.stop", ADMIN, "stop a site: requests for it get 503", "SiteState", (_SITE,)),
    Row("stacks", ADMIN, "the Python stacks of a living worker", "Stacks",
        (Argument("worker", 4711, help="its process id, or its number"),)),
    Row("reload", ADMIN, "read the configuration again, and apply what has changed", "Reloaded",
        seconds=RELOAD_SECONDS),
    Row("upgrade", ADMIN, "go on in a new service process with the kernelq that is installed now",
        "Upgraded", seconds=RELOAD_SECONDS),
    Row("cache.list", READ, "what the response cache holds", "CacheEntries",
        (Argument("prefix", "https://example.org/news/", "", "a URL: only below it"),
         _page(ENTRIES_MAX, "entries"))),
    Row("cache.show", READ, "every stored variant of one URL", "CacheEntries",
        (Argument("url", "https://example.org/news/7", help="absolute"),)),
    Row("cache.counters", READ, "what the response cache has done since the start",
        "CacheCounters"),
    Row("cache.flush", ADMIN, "drop what is stored below a prefix", "CacheFlushed",
        (Argument("prefix", "https://example.org/news/", help='a URL; "" is everything'),
         Argument("recursive", False, True, "false: only that very URL"))),
    Row("cache.flush_group", ADMIN, "drop what has a name in its Cache-Groups", "Nothing",
        (Argument("group", "articles", help="the name"),
         Argument("origin", "https://example.org", "", "of this origin only"))),
)  # fmt: skip

BY_NAME: Mapping[str, Row] = {row.name: row for row in ROWS}


def check_arguments(row: Row, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of the row, those that were not given with their defaults; ValueError."""
    known = {argument.name: argument for argument in row.arguments}
    for name in given:
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise ValueError(f"{name}: no argument of {row.name}, allowed is {allowed}")
    return {name: _check(argument, given) for name, argument in known.items()}


def _check(argument: Argument, given: Mapping[str, Any]) -> Any:
    if argument.name not in given and argument.default is not REQUIRED:
        return argument.default
    value = given.get(argument.name)
    kind = type(argument.example)
    if type(value) is not kind:
        raise ValueError(
            f"{argument.name}: found {value!r}, allowed is a value of type {kind.__name__}"
        )
    if isinstance(value, int) and not isinstance(value, bool):
        if value < argument.least:
            raise ValueError(
                f"{argument.name}: found {value}, allowed is a number from {argument.least}"
            )
        return min(value, argument.most)
    return value
