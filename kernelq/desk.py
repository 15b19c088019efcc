"""Errands for the managers: how the control thread has something done on their main thread.

The control thread asks and goes on; the service's loop is woken through an eventfd and serves
what waits. An answer that takes longer than a turn of that loop is a Pending, which whoever comes
to know it settles. When the managers stall, errands wait, at most ERRANDS_MAX of them; one that
was given up before it was begun is never begun.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from kernelq import log

ERRANDS_MAX = 64

Arguments = dict[str, Any]
Answer = Mapping[str, Any]
T = TypeVar("T", bound=Answer)


class Pending(Generic[T]):
    """An answer that comes later, or the words why there is none. Any thread may settle it; what
    comes first counts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._then: Callable[[Answer | None, str], None] | None = None
        self._settled: tuple[Answer | None, str] | None = None

    def done(self, answer: T) -> None:
        self._settle(answer, "")

    def fail(self, text: str) -> None:
        self._settle(None, text)

    def then(self, call: Callable[[Answer | None, str], None]) -> None:
        """Have this called with the answer, or with None and why there is none: once, in the thread
        that settles, or at once if that has happened.
        """
        with self._lock:
            self._then = call
            settled = self._settled
        if settled is not None:
            call(*settled)

    def cancel(self) -> bool:
        """Nobody waits any more; True: it had not begun, and never will."""
        return False

    def _settle(self, answer: Answer | None, text: str) -> None:
        with self._lock:
            if self._settled is not None:
                return
            self._settled = (answer, text)
            call = self._then
        if call is not None:
            call(answer, text)


class Errand(Pending[Any]):
    """What waits at the desk."""

    def __init__(self, name: str, arguments: Arguments) -> None:
        super().__init__()
        self.name = name
        self.arguments = arguments
        self._is_taken = False  # begun, or cancelled

    def cancel(self) -> bool:
        return self.take()

    def take(self) -> bool:
        """To begin it, or to give it up; False: the other has come first."""
        with self._lock:
            is_first = not self._is_taken
            self._is_taken = True
        return is_first


class Desk:
    """Where errands are handed over. One thread serves, any thread asks."""

    def __init__(self, say: Callable[[int, str], None] = log.write) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._errands: deque[Errand] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Readable while an errand waits."""
        return self._bell

    def ask(self, name: str, arguments: Arguments) -> Pending[Any]:
        """Leave an errand. ValueError: too many wait already, or nobody serves any more."""
        errand = Errand(name, arguments)
        with self._lock:
            if self._bell < 0:
                raise ValueError("the server is ending")
            if len(self._errands) >= ERRANDS_MAX:
                raise ValueError(f"the managers are busy: {ERRANDS_MAX} commands wait for them")
            self._errands.append(errand)
            os.eventfd_write(self._bell, 1)
        return errand

    def serve(self, table: Mapping[str, Callable[[Arguments], Answer | Pending[Any]]]) -> None:
        """Do what waits now."""
        with self._lock:
            errands = list(self._errands)
            self._errands.clear()
            try:
                os.eventfd_read(self._bell)
            except BlockingIOError:
                pass
        for errand in errands:
            if errand.take():
                self._do(errand, table)

    def close(self) -> None:
        """Refuse what waits, and whatever comes later."""
        with self._lock:
            errands = list(self._errands)
            self._errands.clear()
            bell, self._bell = self._bell, -1
        if bell >= 0:
            os.close(bell)
        for errand in errands:
            errand.fail("the server is ending")

    def _do(
        self,
        errand: Errand,
        table: Mapping[str, Callable[[Arguments], Answer | Pending[Any]]],
    ) -> None:
        try:
            answer = table[errand.name](errand.arguments)
        except ValueError as found:
            errand.fail(str(found))
        except Exception as found:
            self._say(log.ERROR, f"{errand.name}: {type(found).__name__}: {found}")
            errand.fail("the server failed; its log says more")
        else:
            if isinstance(answer, Pending):
                answer.then(errand._settle)
            else:
                errand.done(answer)
