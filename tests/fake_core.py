"""A worker's channel in the test's own process: a stand-in for the core at its other end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from kernelq._coretest import RECORDS, FakeCore, control_record, request_record

from kernelq._worker import Channel

FLAG_END = 1
FLAG_CUT = 2
SPILLED = 8
STREAMED = 16

Application = Callable[[dict[str, Any], Callable[..., Any]], Any]


@dataclasses.dataclass
class Answer:
    """What came back for one request."""

    status: int = 0
    reason: str = ""
    fields: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    length: int = -1
    content: bytes = b""
    file: tuple[int, int] | None = None
    is_cut: bool = False
    is_ended: bool = False
    is_skipped: bool = False
    kinds: list[str] = dataclasses.field(default_factory=list)
    consumed: int = 0

    def add(self, kind: str, flags: int, rest: Any) -> None:
        """Take one record into account."""
        assert not self.is_ended, (kind, "after the end")
        self.kinds.append(kind)
        if kind == "HEAD":
            assert self.status == 0
            self.status, self.reason, self.fields, self.length, self.content = rest
        elif kind == "DATA":
            assert self.status != 0
            self.content += rest
        elif kind == "FILE":
            self.file = rest
        elif kind == "CONSUMED":
            assert rest >= self.consumed
            self.consumed = rest
            return
        elif kind == "SKIPPED":
            self.is_skipped = self.is_ended = True
            return
        else:
            assert kind == "END"
        self.is_cut = bool(flags & FLAG_CUT)
        self.is_ended = bool(flags & FLAG_END)


class Rig:
    """A core, a channel, and an application that is served."""

    def __init__(self, core: FakeCore, channel: Channel) -> None:
        self.core = core
        self.channel = channel
        self.answers: dict[int, Answer] = {}
        self.next_place = 0
        self.releases = True

    def hand(self, place: int | None = None, loop: int = 0, ring: int = 0, **request: Any) -> int:
        """Hand over a request; its dispatch."""
        if place is None:
            place = self.next_place
            self.next_place = (self.next_place + 1) % self.core.place_count
        dispatch: int = self.core.next_dispatch(loop)
        self.core.dispatches[dispatch] = place
        self.answers[dispatch] = Answer()
        assert self.core.put(request_record(dispatch, place, **request), ring)
        return dispatch

    def tell(self, kind: str, dispatch: int = 0, ring: int = 0, **rest: Any) -> None:
        """A control record."""
        place = self.core.dispatches.get(dispatch, 0)
        assert self.core.put(control_record(kind, dispatch, place, **rest), ring)

    def collect(self, dispatch: int, until: str = "END") -> Answer:
        """The answer to a request, up to its end, or to the first record of a kind."""
        answer = self.answers[dispatch]
        while not answer.is_ended and until not in answer.kinds:
            kind, flags, _, whose, rest = self.core.wait()
            if whose not in self.answers:
                continue
            other = self.answers[whose]
            other.add(kind, flags, rest)
            if self.releases and kind in ("HEAD", "DATA") and not other.is_ended:
                self.tell("RELEASED", whose, whose & 0xFF, value=len(other.content))
        return answer

    def ask(self, **request: Any) -> Answer:
        """A request and its whole answer."""
        return self.collect(self.hand(**request))

    def hand_spilled(self, content: bytes, path: Any, **request: Any) -> int:
        """Hand over a request whose content is in a file."""
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY)
        dispatch = self.core.serial + 1 << 8
        self.core.send_fd(dispatch, self.next_place, RECORDS["REQUEST"], fd)
        os.close(fd)
        request.setdefault("content_length", len(content))
        assert self.hand(flags=SPILLED, **request) == dispatch
        return dispatch


def one(application: Any) -> Any:
    """As Channel.serve() wants it: by number, with a way to load it; or that already."""
    if isinstance(application, dict):
        return application
    return {0: SimpleNamespace(load=lambda: application)}


@contextlib.contextmanager
def served(
    application: Application | dict[int, Any],
    threads: int = 1,
    settings: Any = None,
    **options: Any,
) -> Iterator[Rig]:
    """An application, served in this process until the block ends; then drained."""
    core = FakeCore(slots=threads, **options)
    channel = Channel(list(core.worker_fds))
    core.attach()
    channel.serve(one(application), threads, settings)
    channel.ready()
    assert core.wait()[0] == "READY"
    rig = Rig(core, channel)
    try:
        yield rig
    finally:
        rig.tell("DRAIN")
        assert channel.wait(20)
        channel.close()
        core.close()


def answering(
    content: Any = b"ok", status: str = "200 OK", headers: Any = None
) -> Callable[..., Application]:
    """An application that gives one answer."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response(status, [] if headers is None else headers)
        return [content] if isinstance(content, bytes) else content

    return application  # type: ignore[return-value]
