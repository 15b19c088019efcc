"""The thin layer under the plan: it does what the plan says, tells it what happened, and decides
nothing.

A worker has three names: the plan's key, the core's number (a new one for each attempt to start
it), and a pid. A death is known from two sides: the core says "gone" when the process has ended and
every loop has finished with it, the spawner brings the wait status. The plan acts on the first, the
log line waits for both.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from kernelq import log
from kernelq.config import PoolSettings
from kernelq.letters import Control, FromSpawner, ToSpawner
from kernelq.link import Link, Message, link_pair
from kernelq.pool import plan
from kernelq.pool.model import Action, Do, Event, Kind, Limits, State
from kernelq.status import describe_status

REQUESTS_SHOWN_MAX = 8
STATUS_UNKNOWN = -1


class Core(Protocol):
    """The part of kernelq._core.Core that a pool needs."""

    def channel_open(self) -> tuple[int, list[int]]: ...
    def worker_attach(self, worker: int, pid: int, pidfd: int) -> None: ...
    def worker_drain(self, worker: int) -> None: ...
    def worker_abort(self, worker: int) -> None: ...
    def worker_forget(self, worker: int) -> None: ...
    def worker_info(self, worker: int) -> dict[str, object]: ...
    def set_pool_state(self, state: str) -> None: ...


class Host(Protocol):
    """Whom the executor serves: the service process."""

    def log(self, level: int, text: str) -> None: ...
    def watch(self, link: Link, on_readable: Callable[[], None]) -> None: ...
    def unwatch(self, link: Link) -> None: ...
    def on_serving(self) -> None: ...
    def on_reloaded(self, is_new: bool) -> None: ...
    def on_give_up(self, text: str) -> None: ...
    def on_stopped(self) -> None: ...


class Member:
    """A worker process as the executor knows it."""

    __slots__ = ("control", "generation", "info", "is_expected", "key", "number", "pid", "status")

    def __init__(self, key: int, generation: int) -> None:
        self.key = key
        self.generation = generation
        self.number = -1
        self.pid = 0
        self.control: Link | None = None
        self.status: tuple[int, int] | None = None  # wait status, largest resident size in KiB
        self.info: dict[str, object] | None = None
        self.is_expected = False


class PoolExecutor:
    """One pool's processes."""

    def __init__(self, core: Core, host: Host, index: int, settings: PoolSettings) -> None:
        self._core = core
        self._host = host
        self._index = index
        self._settings = settings
        self._spawner: Link | None = None
        self._members: dict[int, Member] = {}  # by the plan's key
        self._by_number: dict[int, Member] = {}  # attached or on the way, until buried
        self._waiting: deque[Member] = deque()  # to be started when there is a spawner
        self._events: deque[Event] = deque()
        self._is_stepping = False
        self.state = plan.make_pool(
            Limits(
                workers=settings.workers,
                startup_ns=settings.startup_limit_ns,
                graceful_ns=settings.graceful_timeout_ns,
                rapid_fail_count=settings.rapid_fail_count,
                rapid_fail_ns=settings.rapid_fail_interval_ns,
            )
        )
        self._perform: dict[Do, Callable[[Action], None]] = {
            Do.START: self._do_start,
            Do.DRAIN: self._do_drain,
            Do.STACKS: self._do_stacks,
            Do.SIGNAL: self._do_signal,
            Do.RETIRE: self._do_retire,
            Do.POOL: self._do_pool,
            Do.SERVING: lambda action: host.on_serving(),
            Do.RELOADED: lambda action: host.on_reloaded(action.number == 1),
            Do.GIVE_UP: lambda action: host.on_give_up(action.text),
            Do.STOPPED: lambda action: host.on_stopped(),
            Do.LOG: self._do_log,
        }

    def apply(self, event: Event) -> None:
        """Let the plan decide about an event, and do what it says. Events that this causes come
        after it.
        """
        self._events.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        try:
            while self._events:
                now = time.monotonic_ns()
                self.state, actions = plan.step(self.state, self._events.popleft(), now)
                for action in actions:
                    self._perform[action.kind](action)
        finally:
            self._is_stepping = False

    # The spawner.

    def set_spawner(self, link: Link | None) -> None:
        """A new spawner, or none: then whom it had not yet started is started by the next one."""
        self._spawner = link
        if link is None:
            self._lose_spawner()
            return
        waiting, self._waiting = self._waiting, deque()
        for member in waiting:
            if member.key in self._members:
                self._launch(member)

    def on_spawner_message(self, message: Message) -> None:
        """One message of the spawner. It may be about a worker that is known no more."""
        member = self._by_number.get(message.numbers[0])
        if member is None:
            message.close_descriptors()
            return
        match message.kind, message.numbers:
            case FromSpawner.STARTED, (number, pid):
                member.pid = pid
                self._core.worker_attach(number, pid, message.descriptors.pop())
                self._host.log(log.DEBUG, f"{self._name(member)} started")
            case FromSpawner.FAILED, _:
                self._fail(member, message.text)
            case FromSpawner.DIED, (_, status, resident_kib, _):
                member.status = (status, resident_kib)
                self._bury(member)
        message.close_descriptors()

    # The core.

    def on_core_event(self, name: str, number: int) -> None:
        """One event of the core about a worker."""
        member = self._by_number.get(number)
        if member is None:
            return
        if name == "gone":
            if self._spawner is not None and self._spawner.is_ended():
                # It died first, and took this worker along; its end has not been read yet.
                self.apply(Event(Kind.SPAWNER_LOST))
            self._end(member)
            return
        kind = _KINDS.get(name)
        if kind is not None:
            self.apply(Event(kind, member.key))

    def describe_members(self) -> list[tuple[int, int, str]]:
        """(number, pid, state) of each process, for the log and the control interface."""
        states = {worker.key: worker.state.name for worker in self.state.workers}
        return [(m.number, m.pid, states.get(k, "")) for k, m in self._members.items()]

    @property
    def is_buried(self) -> bool:
        """Whether no process is left, nor a line about one to be written."""
        return not self._by_number

    # Actions.

    def _do_start(self, action: Action) -> None:
        member = self._members[action.worker] = Member(action.worker, action.number)
        self._launch(member)

    def _launch(self, member: Member) -> None:
        if self._spawner is None:
            self._waiting.append(member)
            return
        try:
            number, descriptors = self._core.channel_open()
        except OSError as found:
            self._host.log(log.ERROR, f"{self._name(member)} has no channel: {found}")
            self._forget(member)
            self.apply(Event(Kind.DIED, member.key))
            return
        ours, theirs = link_pair()
        member.number = number
        member.control = ours
        self._by_number[number] = member
        numbers = (self._index, number, member.generation)
        passed = [*descriptors, theirs.fileno()]
        ours.set_blocking(False)
        self._host.watch(ours, lambda: self._on_control(member))
        try:
            self._spawner.send(ToSpawner.START, *numbers, descriptors=passed)
        except ConnectionError:
            self._take_back(member)  # the spawner's end is about to be noticed
        finally:
            theirs.close()
            for descriptor in descriptors:
                os.close(descriptor)

    def _do_drain(self, action: Action) -> None:
        member = self._members[action.worker]
        if member.pid:
            self._core.worker_drain(member.number)

    def _do_stacks(self, action: Action) -> None:
        member = self._members[action.worker]
        if member.control is not None:
            member.control.try_send(Control.STACKS)

    def _do_signal(self, action: Action) -> None:
        member = self._members[action.worker]
        if member in self._waiting:
            self._waiting.remove(member)
            self._forget(member)
            self.apply(Event(Kind.DIED, member.key))
        elif self._spawner is not None:
            self._spawner.try_send(ToSpawner.SIGNAL, member.number, action.number)

    def _do_retire(self, action: Action) -> None:
        if self._spawner is not None:
            self._spawner.try_send(ToSpawner.RETIRE, self._index, action.number)

    def _do_pool(self, action: Action) -> None:
        self._core.set_pool_state(action.text)
        level = log.INFO if action.text == "online" else log.ERROR
        self._host.log(level, f"pool {self._settings.name} is {action.text}")

    def _do_log(self, action: Action) -> None:
        member = self._members.get(action.worker)
        name = f"pool {self._settings.name}:" if member is None else self._name(member)
        self._host.log(action.number, f"{name} {action.text}")

    # Ends.

    def _lose_spawner(self) -> None:
        self.apply(Event(Kind.SPAWNER_LOST))
        for member in list(self._by_number.values()):
            if member.pid == 0:
                self._take_back(member)
            elif member.status is None:
                member.status = (STATUS_UNKNOWN, 0)
                self._bury(member)

    def _take_back(self, member: Member) -> None:
        """A start that the spawner did not live to confirm: do it again with the next one."""
        self._release(member)
        self._core.worker_abort(member.number)
        del self._by_number[member.number]
        member.number = -1
        self._waiting.append(member)

    def _fail(self, member: Member, refusal: str) -> None:
        self._core.worker_abort(member.number)
        if refusal:
            self.apply(Event(Kind.REFUSED, member.key, text=refusal))
        elif not self._is_leaving(member):
            self._host.log(log.ERROR, f"{self._name(member)} could not be started")
        self._release(member)
        del self._by_number[member.number]
        self._forget(member)
        self.apply(Event(Kind.DIED, member.key))

    def _end(self, member: Member) -> None:
        self._on_control(member)  # its last words, said before it died
        member.info = self._core.worker_info(member.number)
        member.is_expected = self._is_leaving(member)
        self._core.worker_forget(member.number)
        self._release(member)
        self._bury(member)
        self.apply(Event(Kind.DIED, member.key))
        self._forget(member)

    def _bury(self, member: Member) -> None:
        """Write the death into the log, once both sides of it are known."""
        if member.info is None or member.status is None:
            return
        del self._by_number[member.number]
        level = log.INFO if member.is_expected else log.WARNING
        self._host.log(level, f"{self._name(member)} {describe_death(member)}")

    def _release(self, member: Member) -> None:
        if member.control is not None:
            self._host.unwatch(member.control)
            member.control.close()
            member.control = None

    def _forget(self, member: Member) -> None:
        self._members.pop(member.key, None)

    def _is_leaving(self, member: Member) -> bool:
        worker = plan.find_worker(self.state, member.key)
        return worker is None or worker.state not in (State.STARTING, State.READY)

    def _on_control(self, member: Member) -> None:
        while member.control is not None:
            try:
                message = member.control.receive()
            except BlockingIOError:
                return
            except ValueError:
                message = None
            if message is None:
                self._release(member)
                return
            message.close_descriptors()
            if message.kind == Control.STACKS_DONE:
                self.apply(Event(Kind.STACKS_DONE, member.key))
            elif message.kind == Control.REFUSED:
                self.apply(Event(Kind.REFUSED, member.key, text=message.text))

    def _name(self, member: Member) -> str:
        who = f" (pid {member.pid})" if member.pid else ""
        number = f" {member.number}" if member.number >= 0 else ""
        return f"pool {self._settings.name}: worker{number}{who}"


_KINDS = {
    "ready": Kind.READY,
    "first_answer": Kind.FIRST_ANSWER,
    "unhealthy": Kind.UNHEALTHY,
    "recovered": Kind.RECOVERED,
    "hopeless": Kind.HOPELESS,
    "timeout": Kind.TIMEOUT,
    "distrusted": Kind.DISTRUSTED,
}


def describe_death(member: Member) -> str:
    """How a worker ended: signal or status, memory, and what it had in hand."""
    status, resident_kib = member.status or (STATUS_UNKNOWN, 0)
    info: dict[str, Any] = member.info or {}
    executing: list[dict[str, Any]] = info.get("executing", [])
    if status == STATUS_UNKNOWN:
        words = ["died with its spawner"]
    else:
        verb = "ended" if member.is_expected else "died"
        words = [f"{verb}: {describe_status(status)}", f"{resident_kib / 1024:.1f} MiB at most"]
    words.append(f"{info.get('served', 0)} requests served")
    if executing:
        count = info.get("casualties", 0) or len(executing)
        words.append(f"in hand: {describe_requests(executing, count)}")
    return ", ".join(words)


def describe_requests(executing: list[dict[str, Any]], count: int) -> str:
    """The requests that a worker had started, `count` in all; the first few of them in full."""
    now = time.monotonic_ns()
    shown = [
        f"{request['method']} {request['target']} of {request['client']} "
        f"for {(now - request['handed_ns']) / 1e9:.2f} s"
        for request in executing[:REQUESTS_SHOWN_MAX]
    ]
    more = count - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")
