"""A running server, asked from Python over its control socket.

    from kernelq.control import Client, ControlError

    with Client() as server:                      # the only server here, or Client("/run/...sock")
        print(server.status()["uptime_s"])
        for request in server.requests(pool="shop"):
            print(request["method"], request["target"], request["elapsed_ms"])
        server.recycle("shop")
        for event in server.events(follow=True):  # until the server ends
            print(event["time"], event["text"])

What is answered are dicts whose shapes stand in kernelq/shapes.py; the same, line by line, is
docs/control.md. Texts in them may hold what clients and applications wrote: show them through
`kernelq.columns.clean`. Whatever goes wrong is a ControlError, whose text says what.

Only the user that serves, root, and, for what changes nothing, the group of `control_readers` are
answered. A client belongs to one thread. It connects when it is first asked, and again when the
server was restarted meanwhile.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from kernelq import control_socket
from kernelq.protocol import BY_NAME, EVENTS_MAX, REQUESTS_MAX, SECONDS
from kernelq.shapes import (
    PAGE,
    CacheEntry,
    Event,
    Events,
    Match,
    Missed,
    Names,
    Pool,
    PoolState,
    Reloaded,
    Request,
    Requests,
    Site,
    SiteState,
    Stacks,
    Status,
    Upgraded,
)

LINE_BYTES_MAX = 256 * 1024 * 1024  # of an answer
_SLACK_SECONDS = (
    90.0  # besides what the server allows: a flush of millions of entries takes a while
)


class ControlError(Exception):
    """There is no server, or it refused, or it went away. The text says why.

    is_refusal: a server has answered so; else nobody knows whether anything was done.
    """

    def __init__(self, text: str, *, is_refusal: bool = False) -> None:
        super().__init__(text)
        self.is_refusal = is_refusal


class Client:
    """Asks one server.

    path: its control socket; None means the only one in the default folders.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._path = None if path is None else os.fspath(path)
        self._connection: Connection | None = None

    @property
    def path(self) -> str:
        """The control socket; ControlError when none was named and there is not exactly one."""
        if self._path is None:
            self._path = find_server()
        return self._path

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        found: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Any command of docs/control.md: its whole answer."""
        if self._connection is not None and self._connection.is_lost():
            self.close()
        if self._connection is None:
            self._connection = Connection(self.path)
        try:
            return self._connection.ask({"do": do, **arguments})
        except BaseException as found:
            if not (isinstance(found, ControlError) and found.is_refusal):
                self.close()  # what it still says would be taken for another's answer
            raise

    # Looking.

    def status(self) -> Status:
        """The server as a whole."""
        return cast("Status", self.ask("status"))

    def names(self) -> Names:
        """The names of all pools and sites."""
        return cast("Names", self.ask("names"))

    def pools(self) -> list[Pool]:
        """All pools, by name, with their queues and workers."""
        return self._pages("pools")

    def sites(self) -> list[Site]:
        """All sites, by name, with their bindings and applications."""
        return self._pages("sites")

    def requests(self, pool: str = "", most: int = REQUESTS_MAX) -> list[Request]:
        """What is queued and executed now, the oldest first in each pool."""
        return cast("Requests", self.ask("requests", pool=pool, most=most))["requests"]

    def match(self, url: str) -> Match:
        """Which site, application and pool would answer this URL."""
        return cast("Match", self.ask("match", url=url))

    def events(self, since: int = 0, *, follow: bool = False) -> Iterator[Event]:
        """The last events with a serial above `since`; with follow also all that come, until the
        server ends, which is a ControlError. A gap in the serials: who read too slowly missed some.
        """
        if not follow:
            answer = cast("Events", self.ask("events", since=since, most=EVENTS_MAX))
            yield from answer["events"]
            return
        past, coming = self.follow(since)
        try:
            yield from past["events"]
            for line in coming:
                if "serial" in line:
                    yield line
        finally:
            coming.close()

    def follow(self, since: int = 0) -> tuple[Events, "Connection"]:
        """The past events with what tells this journal from another, and a connection with those
        that come, to be closed.
        """
        connection = Connection(self.path)
        request = {"do": "events", "since": since, "most": EVENTS_MAX, "follow": True}
        try:
            past = cast("Events", connection.ask(request))
        except BaseException:
            connection.close()
            raise
        return past, connection

    # Changing.

    def recycle(self, pool: str) -> PoolState:
        """Replace the workers of a pool; requests do not notice."""
        return cast("PoolState", self.ask("recycle", pool=pool))

    def pool_start(self, pool: str) -> PoolState:
        """Start a pool that was stopped, or that rapid-fail protection has taken offline."""
        return cast("PoolState", self.ask("pool.start", pool=pool))

    def pool_stop(self, pool: str) -> PoolState:
        """Stop a pool: what runs finishes, what comes is answered 503."""
        return cast("PoolState", self.ask("pool.stop", pool=pool))

    def site_start(self, site: str) -> SiteState:
        """Start a site that was stopped."""
        return cast("SiteState", self.ask("site.start", site=site))

    def site_stop(self, site: str) -> SiteState:
        """Stop a site: requests for it are answered 503."""
        return cast("SiteState", self.ask("site.stop", site=site))

    def stacks(self, worker: int) -> Stacks:
        """The Python stacks of a living worker: its process id, or its number."""
        return cast("Stacks", self.ask("stacks", worker=worker))

    def reload(self) -> Reloaded:
        """Read the configuration again and apply what has changed; returns when it serves.
        ControlError with all that is wrong, and then nothing has changed.
        """
        return cast("Reloaded", self.ask("reload"))

    def upgrade(self) -> Upgraded:
        """Go on in a new service process, with the kernelq that is installed now."""
        return cast("Upgraded", self.ask("upgrade"))

    # The response cache.

    def cache_list(self, prefix: str = "", most: int = PAGE) -> list[CacheEntry]:
        """What is stored below a prefix."""
        return cast("list[CacheEntry]", self.ask("cache.list", prefix=prefix, most=most)["entries"])

    def cache_show(self, url: str) -> list[CacheEntry]:
        """Every stored variant of one URL."""
        return cast("list[CacheEntry]", self.ask("cache.show", url=url)["entries"])

    def cache_counters(self) -> dict[str, int]:
        """What the cache has done since the start."""
        return cast("dict[str, int]", self.ask("cache.counters")["counters"])

    def cache_flush(self, prefix: str, *, recursive: bool = True) -> int:
        """Drop what is stored below a prefix ("": everything), or one URL; how many went."""
        return int(self.ask("cache.flush", prefix=prefix, recursive=recursive)["flushed"])

    def cache_flush_group(self, group: str, *, origin: str = "") -> None:
        """Drop what has this name in its Cache-Groups, of one origin or of all."""
        self.ask("cache.flush_group", group=group, origin=origin)

    def _pages(self, name: str) -> list[Any]:
        found: list[Any] = []
        while True:
            after = found[-1]["name"] if found else ""
            answer = self.ask(name, most=PAGE, after=after)
            found += answer[name]
            if answer["complete"] or not answer[name]:
                return found


class Connection:
    """One connection: lines of JSON to and fro. ControlError for whatever goes wrong.

    Iterating gives the events that come, on a connection that follows.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stream: BinaryIO = self._socket.makefile("rb")
        self._guard(lambda: self._socket.connect(path))

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def is_lost(self) -> bool:
        """Whether the server has closed it meanwhile, as it does after a while of silence."""
        self._socket.setblocking(False)  # ask() sets its own patience
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        row = BY_NAME.get(request["do"])
        self._socket.settimeout((row.seconds if row else SECONDS) + _SLACK_SECONDS)
        self._guard(lambda: self._send(json.dumps(request).encode("ascii") + b"\n"))
        answer = self._read()
        if not isinstance(answer.get("ok"), bool):
            raise ControlError(f"{self._path}: what answers there is no server of ours")
        if not answer["ok"]:
            raise ControlError(str(answer.get("error")), is_refusal=True)
        return answer

    def __iter__(self) -> Iterator[Event | Missed]:
        return self

    def __next__(self) -> Event | Missed:
        """The next event, however long it takes; ControlError at the end."""
        self._socket.settimeout(None)
        return cast("Event | Missed", self._read())

    def _send(self, line: bytes) -> None:
        try:
            self._socket.sendall(line)
        except ConnectionError:
            pass  # refused before it was read: the answer says why

    def _read(self) -> dict[str, Any]:
        line = self._guard(lambda: self._stream.readline(LINE_BYTES_MAX))
        if not line:
            raise ControlError(f"{self._path}: the connection was closed without an answer")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ControlError(f"{self._path}: what answers there is no server of ours")
        return answer

    def _guard(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except OSError as found:
            text = f"{self._path}: {self._explain(found)}"
            self.close()
            raise ControlError(text) from None

    def _explain(self, found: OSError) -> str:
        if isinstance(found, FileNotFoundError):
            return "there is no such socket"
        if isinstance(found, ConnectionRefusedError):
            return "no server listens there any more"
        if isinstance(found, PermissionError):
            return "no permission: only the user that serves, and root, may ask"
        if isinstance(found, TimeoutError):
            return f"no answer within {self._socket.gettimeout():g} s"
        return found.strerror or str(found)


def find_server() -> str:
    """The control socket of the only server; ControlError when there is none, or several."""
    found = control_socket.find_sockets(os.environ)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ControlError(
            "no control socket of a running server that you may use was found; "
            "--control PATH names one"
        )
    raise ControlError(
        "several servers run; --control PATH says which is meant:"
        + "".join(f"\n{path}" for path in found)
    )
