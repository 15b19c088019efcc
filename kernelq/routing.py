"""Where requests go: the core's listeners and its table of routes, as the settings want them."""

from collections.abc import Iterable
from typing import Any, Protocol

from kernelq.binding import Listener
from kernelq.config import ApplicationSettings, ServerSettings
from kernelq.pools import Pools
from kernelq.sites import Route, make_routes


class Core(Protocol):
    """The part of kernelq._core.Core that routing needs."""

    def add_listener(self, fd: int) -> int: ...
    def remove_listener(self, listener: int) -> None: ...
    def set_routes(self, entries: Iterable[tuple[Any, ...]]) -> None: ...
    def route(
        self, listener: int, address: bytes, host: bytes, path: bytes
    ) -> tuple[int, int, int, bytes] | None: ...


class Routing:
    """Listeners by number, and what was published last."""

    def __init__(self, core: Core, pools: Pools) -> None:
        self._core = core
        self._pools = pools
        self._listeners: dict[int, tuple[str, str, int]] = {}  # endpoint's name, URL, descriptor
        self._generations: dict[int, int] = {}  # by application: least one that knows it
        self._stopped: set[str] = set()  # sites
        self._settings = ServerSettings(sites=(), pools=())
        self._rows: list[Route] = []
        # Of sockets that were removed: who is connected still may bring another request.
        self._leaving: list[Route] = []

    # Listeners.

    def add_listener(self, name: str, listener: Listener) -> None:
        """Takes the socket."""
        descriptor = listener.socket.detach()
        number = self._core.add_listener(descriptor)
        self._listeners[number] = name, listener.url, descriptor
        self._leaving = [row for row in self._leaving if row[0] != number]

    def remove_listeners(self, names: Iterable[str]) -> None:
        """Those of these endpoints: what is in their backlogs, and what comes over their
        connections until these end, is still answered.
        """
        gone = set(names)
        for number, (name, _, _) in list(self._listeners.items()):
            if name in gone:
                del self._listeners[number]
                self._core.remove_listener(number)
                self._leaving += [row for row in self._rows if row[0] == number]

    def endpoint_names(self) -> set[str]:
        return {name for name, _, _ in self._listeners.values()}

    def urls(self) -> list[str]:
        return [url for _, url, _ in self._listeners.values()]

    def sockets(self) -> list[tuple[str, int]]:
        """(endpoint's name, descriptor) of each; the descriptors are the core's."""
        return [(name, descriptor) for name, _, descriptor in self._listeners.values()]

    def numbers(self) -> dict[str, list[int]]:
        """The core's numbers by the endpoint's name."""
        numbers: dict[str, list[int]] = {}
        for number, (name, _, _) in self._listeners.items():
            numbers.setdefault(name, []).append(number)
        return numbers

    def numbers_at(self, port: int) -> list[int]:
        """The core's numbers of the listeners at this TCP port."""
        end = f":{port}"
        return [
            number
            for number, (_, url, _) in self._listeners.items()
            if url.startswith("http:") and url.endswith(end)
        ]

    # Routes.

    def publish(self, settings: ServerSettings) -> None:
        """Make these the core's routes. Every pool that they name is there."""
        before = {site.name for site in self._settings.sites}
        self._stopped &= {site.name for site in settings.sites}
        self._stopped |= {
            site.name for site in settings.sites if site.name not in before and not site.auto_start
        }
        self._settings = settings
        known = self._generations
        self._generations = {}
        pool_numbers: dict[str, int] = {}
        for pool in settings.pools:
            executor = self._pools.find(pool.name)
            assert executor is not None
            pool_numbers[pool.name] = executor.number
            for one in pool.applications:
                self._generations[one.number] = known.get(one.number, executor.generation)

        def target(one: ApplicationSettings) -> tuple[int, int]:
            return pool_numbers[one.pool], self._generations[one.number]

        pools = set(pool_numbers.values())
        self._leaving = [row for row in self._leaving if row[5] in pools]
        self._rows = make_routes(settings.sites, self.numbers(), target, self._stopped)
        self._core.set_routes([*self._rows, *self._leaving])

    def enable_site(self, name: str, is_enabled: bool) -> None:
        """Start or stop a site: who asks for a stopped one gets 503 Disabled."""
        if is_enabled:
            self._stopped.discard(name)
        else:
            self._stopped.add(name)
        self.publish(self._settings)

    def is_enabled(self, site: str) -> bool:
        return site not in self._stopped

    def find(self, number: int, address: bytes, host: str, path: bytes) -> Any:
        return self._core.route(number, address, host.encode(), path)
