"""The journal: the last events of docs/events.md that have happened, for those who ask and those
who follow.

The managers write; the control thread reads. Nobody who follows can hold up who writes: a
subscriber is a function that must return at once.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from kernelq import log
from kernelq.shapes import Event, Missed

EVENTS_KEPT = 1000
BACKLOG_MAX = 1000  # events for a follower who does not take them

Subscriber = Callable[[Event], None]

_LEVELS = {number: name for name, number in log.LEVELS.items()}


class Journal:
    """Events with serial numbers that rise by one. Any thread may call anything.

    name: tells one journal's serials from another's. A service that takes over another's work
    goes on with its name and events.
    """

    def __init__(self, name: str = "", events: Iterable[Event] = ()) -> None:
        self.name = name or os.urandom(6).hex()
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._last_of_pool: dict[str, Event] = {}
        self._last = 0
        self._subscribers: list[Subscriber] = []
        for event in events:
            self._keep(event)

    def add(
        self,
        level: int,
        event: int,
        name: str,
        text: str,
        *,
        pool: str = "",
        worker: int = -1,
        pid: int = 0,
        now_ns: int | None = None,
    ) -> Event:
        """Something has happened. level: a number of log.py; event, name: as docs/events.md."""
        with self._lock:
            made = Event(
                serial=self._last + 1,
                time=log.format_time(time.time_ns() if now_ns is None else now_ns),
                level=_LEVELS[level],
                event=event,
                name=name,
                pool=pool,
                worker=worker,
                pid=pid,
                text=text,
            )
            self._keep(made)
            # Under the lock, so that every subscriber sees the events in their order.
            for subscriber in self._subscribers:
                subscriber(made)
        return made

    def read(self, since: int = 0, most: int = EVENTS_KEPT) -> list[Event]:
        """The newest events with a higher serial, at most so many, in their order."""
        with self._lock:
            return self._read(since, most)

    def last_of(self, pool: str) -> Event | None:
        """The newest event of a pool that is still kept."""
        with self._lock:
            return self._last_of_pool.get(pool)

    def follow(
        self, wake: Callable[[], None], since: int = 0, most: int = EVENTS_KEPT
    ) -> tuple[list[Event], "Follower"]:
        """As read(), and whoever takes all later ones; wake is called when there are some."""
        follower = Follower(self, wake)
        with self._lock:
            self._subscribers.append(follower.put)
            return self._read(since, most), follower

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """After this the subscriber is not called any more."""
        with self._lock:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

    def _keep(self, event: Event) -> None:
        self._last = event["serial"]
        self._events.append(event)
        self._last_of_pool[event["pool"]] = event
        if len(self._events) > EVENTS_KEPT:
            old = self._events.popleft()
            if self._last_of_pool[old["pool"]] is old:
                del self._last_of_pool[old["pool"]]

    def _read(self, since: int, most: int) -> list[Event]:
        # Serials rise by one, so what is wanted stands at the end.
        count = min(self._last - since, most, len(self._events))
        return list(self._events)[len(self._events) - count :] if count > 0 else []


class Follower:
    """The events that somebody has yet to take: the newest BACKLOG_MAX, and how many were dropped
    before them.
    """

    def __init__(self, journal: Journal, wake: Callable[[], None]) -> None:
        self._journal = journal
        self._wake = wake
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._missed = 0

    def put(self, event: Event) -> None:
        with self._lock:
            if len(self._events) >= BACKLOG_MAX:
                self._events.popleft()
                self._missed += 1
            self._events.append(event)
        self._wake()

    def take(self) -> list[Event | Missed]:
        """What has come since the last call."""
        with self._lock:
            taken: list[Event | Missed] = [Missed(missed=self._missed)] if self._missed else []
            taken += self._events
            self._events.clear()
            self._missed = 0
        return taken

    def close(self) -> None:
        self._journal.unsubscribe(self.put)
