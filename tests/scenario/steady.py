"""A steady load: clients that ask until they are told to stop, each request with a number of its
own, each answer checked to the last byte.
"""

import threading
from collections.abc import Callable
from typing import Self

from harness import PATIENCE
from load import Broken, Client, Cut, Outcome, Request

Source = Callable[[int], Request]

_PATHS = ("/sleep-4", "/sleep-2", "/", "/sleep-8", "/sleep-1/file", "/sleep-2/chunked")
PACE = 0.004  # seconds between an answer and the next request of one client


def mixed(number: int) -> Request:
    """GETs and POSTs, some with large content, some that answer in blocks or from a file."""
    path = _PATHS[number % len(_PATHS)]
    if number % 3:
        return Request(number, "GET", path)
    bytes_ = number * 7907 % 3000 + (200_000 if number % 60 == 0 else 1)
    return Request(number, "POST", path, b"%d." % number * (bytes_ // 5 + 1))


def only(method: str = "GET", prefix: str = "", host: str = "kernelq.test") -> Source:
    """Small requests of one kind, for one application."""
    content = b"content" if method != "GET" else b""

    def source(number: int) -> Request:
        return Request(number, method, f"{prefix}/sleep-{number % 5}", content, host)

    return source


class Load:
    """Clients at work, from `with` to its end. Several sources: each client has one of them.

    may_close: the server may say that a connection ends (an upgrade); the client opens another one.
    """

    def __init__(
        self,
        address: tuple[str, int] | str,
        *sources: Source,
        clients: int = 6,
        may_close: bool = False,
        is_connecting: bool = False,
        first: int = 0,
    ) -> None:
        self._address = address
        self._may_close = may_close
        self._is_connecting = is_connecting  # a connection for each request
        self._given = sources or (mixed,)
        self._changed = threading.Condition()
        self._is_over = False
        self._first = self._next = first
        self.outcome = Outcome()
        self._threads = [
            threading.Thread(target=self._ask, args=(turn,), daemon=True) for turn in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.go_on(20)
        return self

    def __exit__(self, *what: object) -> None:
        with self._changed:
            self._is_over = True
        for thread in self._threads:
            thread.join(4 * PATIENCE)
            assert not thread.is_alive(), "a client still waits"

    @property
    def answered(self) -> int:
        return len(self.outcome.answers)

    @property
    def pids(self) -> set[int]:
        """The workers that have answered."""
        with self._changed:
            return {one.pid for one in self.outcome.answers.values() if one.status == 200}

    def go_on(self, count: int = 60) -> None:
        """Until so many more requests have been answered, all of them sent from now on."""
        with self._changed:
            first = self._next
            self._changed.wait_for(lambda: self._since(first) >= count or self._broke(), PATIENCE)
            assert self.outcome.broken == []
            assert self._since(first) >= count, "the load stands still"

    def _since(self, first: int) -> int:
        if len(self.outcome.answers) < (first - self._first) // 2:
            return 0
        return sum(number >= first for number in self.outcome.answers)

    def _broke(self) -> bool:
        return bool(self.outcome.broken)

    def _take(self, turn: int) -> Request | None:
        with self._changed:
            if self._is_over:
                return None
            request = self._given[turn % len(self._given)](self._next)
            self._next += 1
            self.outcome.requests[request.number] = request
            return request

    def _ask(self, turn: int) -> None:
        client: Client | None = None
        try:
            while (request := self._take(turn)) is not None:
                client = client or Client(self._address)
                try:
                    answer = client.ask(request)
                except Cut:
                    with self._changed:
                        self.outcome.cut.add(request.number)
                    client.close()
                    client = None
                    continue
                is_last = answer.fields.get("connection") == "close"
                if is_last and not self._may_close:
                    raise Broken(f"closes behind {request}: {answer.status}")
                with self._changed:
                    self.outcome.answers[request.number] = answer
                    self._changed.notify_all()
                if is_last or self._is_connecting:
                    client.close()
                    client = None
                threading.Event().wait(PACE)
        except Exception as found:
            with self._changed:
                self.outcome.broken.append(repr(found))
                self._changed.notify_all()
        finally:
            if client is not None:
                client.close()
