"""What the commands of the control socket do: those about the cache and the journal in the socket's
own thread, all others at the managers' desk.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kernelq.desk import Answer, Arguments, Desk, Pending
from kernelq.pool.journal import Follower, Journal
from kernelq.protocol import BY_NAME, Row


@dataclass(frozen=True, slots=True)
class Following:
    """An answer after which more comes: `open` gives the answer and whom to take the rest from."""

    open: Callable[[Callable[[], None]], tuple[Answer, Follower]]


Outcome = Answer | Pending[Any] | Following


@dataclass(frozen=True, slots=True)
class Command:
    """A row, and what does it. ValueError: it is not possible, and why."""

    row: Row
    run: Callable[[Arguments], Outcome]


class CacheCore(Protocol):
    """What the commands about the response cache ask of the core."""

    def cache_list(self, prefix: str, most: int) -> list[dict[str, Any]]: ...
    def cache_show(self, url: str) -> list[dict[str, Any]]: ...
    def cache_flush(self, prefix: str, recursive: bool) -> int: ...
    def cache_flush_group(self, origin: str, name: str) -> None: ...
    def stats(self) -> dict[str, int]: ...


def cache_commands(core: CacheCore) -> dict[str, Command]:
    """The commands about the response cache. What the core refuses is a ValueError."""

    def list_(arguments: Arguments) -> Answer:
        most = arguments["most"]
        entries = core.cache_list(arguments["prefix"], most + 1)
        return {"entries": entries[:most], "complete": len(entries) <= most}

    def show(arguments: Arguments) -> Answer:
        return {"entries": core.cache_show(arguments["url"]), "complete": True}

    def flush(arguments: Arguments) -> Answer:
        return {"flushed": core.cache_flush(arguments["prefix"], arguments["recursive"])}

    def flush_group(arguments: Arguments) -> Answer:
        core.cache_flush_group(arguments["origin"], arguments["group"])
        return {}

    def counters(_: Arguments) -> Answer:
        figures = core.stats()
        return {"counters": {name: n for name, n in figures.items() if name.startswith("cache_")}}

    return _commands(
        {
            "cache.counters": counters,
            "cache.list": list_,
            "cache.show": show,
            "cache.flush": flush,
            "cache.flush_group": flush_group,
        }
    )


def journal_commands(journal: Journal) -> dict[str, Command]:
    """`events`, once and for as long as the client stays."""

    def answer(events: list[Any], since: int) -> Answer:
        last = events[-1]["serial"] if events else since
        return {"events": events, "last": last, "journal": journal.name}

    def events(arguments: Arguments) -> Outcome:
        since, most = arguments["since"], arguments["most"]
        if not arguments["follow"]:
            return answer(journal.read(since, most), since)

        def open_(wake: Callable[[], None]) -> tuple[Answer, Follower]:
            past, follower = journal.follow(wake, since, most)
            return answer(past, since), follower

        return Following(open_)

    return _commands({"events": events})


def manager_commands(desk: Desk) -> dict[str, Command]:
    """Everything else: asked at the desk, which the service serves with managed.manager_table()."""

    def errand(name: str) -> Callable[[Arguments], Outcome]:
        return lambda arguments: desk.ask(name, arguments)

    names = [name for name in BY_NAME if name != "events" and not name.startswith("cache.")]
    return _commands({name: errand(name) for name in names})


def _commands(table: Mapping[str, Callable[[Arguments], Outcome]]) -> dict[str, Command]:
    return {name: Command(BY_NAME[name], run) for name, run in table.items()}
