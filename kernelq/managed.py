"""What may be asked of the managers over the control socket: the contract between the service,
which implements `Managers`, and everything that asks.

A method runs on the managers' main thread (desk.py) and must not wait there: what takes longer
gives a Pending, and settles it later. Whatever is not possible is a ValueError, whose text the
asker reads: what was found, what is allowed.
"""

import bisect
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from kernelq.desk import Arguments, Pending
from kernelq.shapes import (
    Match,
    Names,
    Pools,
    PoolState,
    Reloaded,
    Requests,
    Sites,
    SiteState,
    Stacks,
    Status,
    Upgraded,
)


class Managers(Protocol):
    """What the service does for `manager_table`; all on its main thread."""

    def status(self) -> Status: ...

    def names(self) -> Names: ...

    def pools(self, most: int, after: str) -> Pools:
        """`take_page` cuts the names."""

    def sites(self, most: int, after: str) -> Sites: ...

    def requests(self, pool: str, most: int) -> Requests:
        """pool: "" means all of them."""

    def match(self, url: str) -> Match: ...

    def recycle(self, pool: str) -> PoolState: ...

    def pool_start(self, pool: str) -> PoolState: ...

    def pool_stop(self, pool: str) -> PoolState: ...

    def site_start(self, site: str) -> SiteState: ...

    def site_stop(self, site: str) -> SiteState: ...

    def stacks(self, worker: int) -> Pending[Stacks]:
        """worker: a pid, or else a number."""

    def reload(self) -> Pending[Reloaded]:
        """fail() with every error of the new settings, one in a line; the old ones stay then."""

    def upgrade(self) -> Pending[Upgraded]: ...


def manager_table(
    managers: Managers,
) -> dict[str, Callable[[Arguments], Mapping[str, Any] | Pending[Any]]]:
    """What Desk.serve() wants: by the command's name. The arguments have been checked against the
    row of the command (protocol.py) before.
    """
    return {
        "status": lambda _: managers.status(),
        "names": lambda _: managers.names(),
        "pools": lambda a: managers.pools(a["most"], a["after"]),
        "sites": lambda a: managers.sites(a["most"], a["after"]),
        "requests": lambda a: managers.requests(a["pool"], a["most"]),
        "match": lambda a: managers.match(a["url"]),
        "recycle": lambda a: managers.recycle(a["pool"]),
        "pool.start": lambda a: managers.pool_start(a["pool"]),
        "pool.stop": lambda a: managers.pool_stop(a["pool"]),
        "site.start": lambda a: managers.site_start(a["site"]),
        "site.stop": lambda a: managers.site_stop(a["site"]),
        "stacks": lambda a: managers.stacks(a["worker"]),
        "reload": lambda _: managers.reload(),
        "upgrade": lambda _: managers.upgrade(),
    }


# For those who implement or ask.


def take_page(names: Sequence[str], most: int, after: str) -> tuple[Sequence[str], bool]:
    """Of sorted names those of one page, and whether they are the last ones."""
    first = bisect.bisect_right(names, after) if after else 0
    return names[first : first + most], first + most >= len(names)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """What to say of a pool or site that does not exist, with those that may be meant."""
    names = list(known)
    near = (
        difflib.get_close_matches(name, names, 3, 0.6)
        or [one for one in names if name and one.lower().startswith(name.lower())][:3]
    )
    text = f"there is no {kind} {name!r}"
    if near:
        return f"{text}; did you mean {' or '.join(repr(one) for one in near)}?"
    if 0 < len(names) <= 10:
        return f"{text}; there is {', '.join(repr(one) for one in names)}"
    return text
