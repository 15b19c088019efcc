"""The thin layer under the plan: it does what the plan says, tells it what happened, and decides
nothing.

A worker has three names: the plan's key, the core's number (a new one for each attempt to start
it), and a pid. A death is known from two sides: the core says "gone" when the process has ended and
every loop has finished with it, the spawner brings the wait status. The plan acts on the first, the
log line waits for both.

A generation is one reading of code and settings: what its workers are started with is kept until
the plan retires it.
"""

import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from kernelq import log, sealed
from kernelq.config import PoolSettings
from kernelq.desk import Pending
from kernelq.letters import ActionKind, Control, FromSpawner, ToSpawner
from kernelq.link import Link, Message, link_pair
from kernelq.pool import plan
from kernelq.pool.events import DEATHS, EVENTS, FAILURES, RECYCLES
from kernelq.pool.limits import limits_of, requests_limit
from kernelq.pool.member import STATUS_UNKNOWN, Member, describe_death
from kernelq.pool.model import Action, Do, Event, Kind, Phase, State, Worker
from kernelq.pool.neighbours import KINDS, Core, Host
from kernelq.pool.orphan import ORPHAN_WORDS_NS, describe_orphan
from kernelq.pool.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable


class PoolExecutor:
    """One pool's processes."""

    def __init__(self, core: Core, host: Host, settings: PoolSettings, gives_up: bool) -> None:
        self._core = core
        self._host = host
        self.settings = settings
        self._gives_up = gives_up
        self.number = core.pool_open(settings.core)
        self._spawner: Link | None = None
        self._members: dict[int, Member] = {}  # by the plan's key
        self._by_number: dict[int, Member] = {}  # attached or on the way, until buried
        self._waiting: deque[Member] = deque()  # to be started when there is a spawner
        self._events: deque[Event] = deque()
        self._is_stepping = False
        self._orphans: dict[int, int] = {}  # by key: until when their stacks are waited for
        self._incoming: PoolSettings | None = None  # of the next generation
        self._generations: dict[int, PoolSettings] = {0: settings}
        self.recycles = 0
        self.failures = 0
        self.watch = Watch(core, self.number, settings)
        self.state = plan.make_pool(limits_of(settings, gives_up))
        self.deadline: int | None = None  # when tick() is due, by the monotonic clock
        self._perform: dict[Do, Callable[[Action], None]] = {
            Do.START: self._do_start,
            Do.DRAIN: self._do_drain,
            Do.STACKS: self._do_stacks,
            Do.SIGNAL: self._do_signal,
            Do.ORPHAN: self._do_orphan,
            Do.SUSPEND: self._do_suspend,
            Do.RESUME: lambda action: None,  # pages come back by themselves as they are touched
            Do.GENERATION: self._do_generation,
            Do.RETIRE: self._do_retire,
            Do.POOL: lambda action: core.set_pool_state(self.number, action.text),
            Do.AWAIT_DEMAND: lambda action: core.pool_await_demand(self.number, action.number),
            Do.PEAK: self._do_peak,
            Do.SERVING: lambda action: host.on_serving(self),
            Do.RELOADED: lambda action: host.on_reloaded(self, action.number),
            Do.GIVE_UP: lambda action: host.on_give_up(self, action.text),
            Do.STOPPED: lambda action: host.on_stopped(self),
            Do.RUN: self._do_run,
            Do.THROTTLE: lambda action: self._throttle(action.number == 1),
            Do.REPORT: self._do_report,
        }

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def generation(self) -> int:
        """The newest generation, which knows every application of the settings."""
        return self.state.newest_generation

    @property
    def is_gone(self) -> bool:
        return self.state.phase is Phase.GONE

    @property
    def is_buried(self) -> bool:
        """Whether no process is left, nor a line about one to be written."""
        return not self._by_number

    @property
    def members(self) -> list[Member]:
        return list(self._members.values())

    def start(self) -> None:
        """A new pool: started, or not to be started by itself."""
        self.apply(Event(Kind.START if self.settings.auto_start else Kind.STOP))

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
        self._plan_tick()

    def tick(self, now: int) -> None:
        """Its deadline has come."""
        for key, at in list(self._orphans.items()):
            if now >= at:
                self._abandon(self._members[key])
        due = plan.next_deadline(self.state)
        if due is not None and now >= due:
            self.apply(Event(Kind.TICK))
        if self.watch.next_at is not None and now >= self.watch.next_at:
            for event in self.watch.look(now, self._ready_members()):
                self.apply(event)
        self._plan_tick()

    def configure(self, settings: PoolSettings) -> bool:
        """New settings; True: workers must be replaced to have them, RELOADED will follow."""
        is_restart = settings.index != self.settings.index
        must_not_wait = settings.applications != self.settings.applications
        self.settings = settings
        limits = limits_of(settings, self._gives_up, must_not_wait)
        if is_restart:
            self._incoming = settings
        else:
            self._generations[self.state.generation] = settings
        self._core.pool_change(self.number, settings.core)
        self.watch.configure(settings, self.members)
        self.apply(Event(Kind.CONFIGURE, limits=limits, is_restart=is_restart))
        return is_restart

    def restore(self, settings: PoolSettings) -> None:
        """Back to the settings that its workers still have: new ones were tried and have failed."""
        self.settings = settings
        self._core.pool_change(self.number, settings.core)
        self.watch.configure(settings, self.members)
        self.apply(Event(Kind.CONFIGURE, limits=limits_of(settings, self._gives_up)))

    def close(self) -> None:
        """The pool is gone: nothing routes to it, no process is left. ValueError otherwise."""
        self._core.pool_close(self.number)

    def find_member(self, worker: int) -> Member | None:
        """By pid, or else by the core's number."""
        for member in self._members.values():
            if member.pid and member.pid == worker:
                return member
        return self.numbered(worker)

    def numbered(self, worker: int) -> Member | None:
        """By the core's number."""
        return self._by_number.get(worker)

    def state_of(self, member: Member) -> Worker | None:
        return plan.find_worker(self.state, member.key)

    def ask_stacks(self, member: Member) -> Pending[Any]:
        """The Python stacks of a living worker, as a text."""
        pending: Pending[Any] = Pending()
        if member.control is None or not member.control.try_send(Control.TELL_STACKS):
            pending.fail("the worker does not listen")
        else:
            member.stacks.append(pending)
        return pending

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
        self._throttle(self.state.is_throttled)

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
                self._core.worker_quota(number, requests_limit(self.settings, member.key))
                self._host.log(log.DEBUG, f"{self._name(member)} started")
            case FromSpawner.FAILED, _:
                self._fail(member, message.text)
            case FromSpawner.DIED, (_, status, resident_kib, _):
                member.status = (status, resident_kib)
                self._bury(member)
        message.close_descriptors()

    # The core.

    def on_core_event(self, name: str, number: int, value: int) -> None:
        """One event of the core about a worker, or (number -1) about the pool."""
        if name == "demand":
            self.apply(Event(Kind.DEMAND))
            return
        member = self._by_number.get(number)
        if member is None:
            return
        if name == "gone":
            if self._spawner is not None and self._spawner.is_ended():
                # It died first, and took this worker along; its end has not been read yet.
                self.apply(Event(Kind.SPAWNER_LOST))
            self._end(member)
            return
        kind = KINDS.get(name)
        if kind is not None:
            self.apply(Event(kind, member.key, number=value))

    # Actions.

    def _do_start(self, action: Action) -> None:
        member = self._members[action.worker] = Member(action.worker, action.number)
        self._launch(member)

    def _launch(self, member: Member) -> None:
        if self._spawner is None:
            self._waiting.append(member)
            return
        pair: tuple[Link, ...] = ()
        try:
            pair = link_pair()
            number, descriptors = self._core.channel_open(self.number, member.generation)
        except OSError as found:
            for link in pair:
                link.close()
            self._host.log(log.ERROR, f"{self._name(member)} has no channel: {found}")
            self._forget(member)
            self.apply(Event(Kind.DIED, member.key))
            return
        ours, theirs = pair
        member.number = number
        member.control = ours
        self._by_number[number] = member
        self._host.own(number, self)
        settings = self._generations[member.generation]
        numbers = (settings.index, number, member.generation)
        passed = [*descriptors, theirs.fileno()]
        ours.set_blocking(False)
        self._host.watch(ours, lambda: self._on_control(member, MESSAGES_PER_TURN))
        try:
            self._spawner.send(ToSpawner.START, *numbers, descriptors=passed)
        except ConnectionError:
            self._take_back(member)  # the spawner's end is about to be noticed
        except OSError as found:  # too many descriptors on their way, or no memory
            self._host.log(log.ERROR, f"{self._name(member)} cannot have its channel: {found}")
            self._fail(member, "")
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
        else:
            self._tell_spawner(ToSpawner.SIGNAL, member.number, action.number)

    def _do_orphan(self, action: Action) -> None:
        # Its stacks first, if it can still tell them; then it is stopped, and what it had in hand
        # is treated as after a death.
        member = self._members[action.worker]
        if not member.pid:  # nothing is there yet that a debugger could look into
            self._do_signal(Action(Do.SIGNAL, member.key, signal.SIGKILL))
            return
        member.is_orphan = True
        if member.control is not None and member.control.try_send(Control.STACKS):
            self._orphans[member.key] = time.monotonic_ns() + ORPHAN_WORDS_NS
        else:
            self._abandon(member)

    def _abandon(self, member: Member) -> None:
        self._orphans.pop(member.key, None)
        self._tell_spawner(ToSpawner.SIGNAL, member.number, signal.SIGSTOP)
        self._core.worker_abandon(member.number)
        process = self.settings.process
        for text in describe_orphan(member.pid, self.settings.directory, process.inspectable):
            self._host.log(log.WARNING, f"{self._name(member)} {text}")

    def _do_suspend(self, action: Action) -> None:
        self._tell_spawner(ToSpawner.SUSPEND, self._members[action.worker].number)

    def _do_generation(self, action: Action) -> None:
        self._generations[action.number] = self._incoming or self.settings
        self._incoming = None

    def _do_retire(self, action: Action) -> None:
        settings = self._generations.pop(action.number, None)
        if settings is not None:
            self._tell_spawner(ToSpawner.RETIRE, settings.index, action.number)

    def _do_peak(self, action: Action) -> None:
        del action
        self.apply(Event(Kind.PEAK, number=self._core.pool_take_peak(self.number)))

    def _do_run(self, action: Action) -> None:
        member = self._members.get(action.worker)
        pid = 0 if member is None else member.pid
        if pid or action.text != "orphan":
            self._tell_spawner(ToSpawner.ACTION, self.settings.index, _PROGRAMS[action.text], pid)

    def _throttle(self, is_on: bool) -> None:
        if self.settings.cpu.limit:
            self._tell_spawner(ToSpawner.THROTTLE, self.settings.index, int(is_on))

    def _do_report(self, action: Action) -> None:
        if action.number in RECYCLES:
            self.recycles += 1
        if action.number in FAILURES:
            self.failures += 1
        member = self._members.get(action.worker)
        number, pid = (-1, 0) if member is None else (member.number, member.pid)
        if action.number in DEATHS and member is not None and number >= 0:
            member.death_event = action.number  # said with how it died (_bury)
            return
        event = EVENTS[action.number]
        name = f"pool {self.name}:" if member is None else self._name(member)
        self._host.report(action.number, action.text, self.name, number, pid)
        self._host.log(event.level, f"{name} {action.text} (event {action.number})")

    def _tell_spawner(self, kind: int, *numbers: int) -> None:
        if self._spawner is not None:
            self._spawner.try_send(kind, *numbers)

    # Ends.

    def _lose_spawner(self) -> None:
        self.apply(Event(Kind.SPAWNER_LOST))
        for member in list(self._by_number.values()):
            if member.pid == 0 and self._is_leaving(member):
                self._fail(member, "")
            elif member.pid == 0:
                self._take_back(member)
            elif member.status is None:
                member.status = (STATUS_UNKNOWN, 0)
                self._bury(member)

    def _take_back(self, member: Member) -> None:
        """A start that the spawner did not live to confirm: do it again with the next one."""
        self._release(member)
        self._core.worker_abort(member.number)
        self._unlist(member)
        member.number = -1
        self._waiting.append(member)

    def _fail(self, member: Member, refusal: str) -> None:
        self._core.worker_abort(member.number)
        if refusal:
            self.apply(Event(Kind.REFUSED, member.key, text=refusal))
        elif not self._is_leaving(member):
            self._host.log(log.ERROR, f"{self._name(member)} could not be started")
        self._release(member)
        self._unlist(member)
        self._forget(member)
        self.apply(Event(Kind.DIED, member.key))

    def _end(self, member: Member) -> None:
        self._orphans.pop(member.key, None)  # nobody is left to be stopped
        self._on_control(member, LINK_MESSAGES_MAX)  # its last words, said before it died
        member.info = self._core.worker_info(member.number)
        member.is_expected = self._is_leaving(member)
        self._core.worker_forget(member.number)
        self._release(member)
        if not member.is_orphan:  # else the process is still there
            self.apply(Event(Kind.DIED, member.key))
            self._forget(member)
        self._bury(member)

    def _bury(self, member: Member) -> None:
        """Write the death into the log, once both sides of it are known."""
        if member.info is None or member.status is None:
            return
        self._unlist(member)
        level = log.INFO if member.is_expected else log.WARNING
        text = describe_death(member)
        event = f" (event {member.death_event})" if member.death_event else ""
        self._host.log(level, f"{self._name(member)} {text}{event}")
        if member.death_event:
            self._host.report(member.death_event, text, self.name, member.number, member.pid)
        if member.is_orphan:
            self.apply(Event(Kind.DIED, member.key))
            self._forget(member)

    def _unlist(self, member: Member) -> None:
        del self._by_number[member.number]
        self._host.disown(member.number)

    def _release(self, member: Member) -> None:
        if member.control is not None:
            self._host.unwatch(member.control)
            member.control.close()
            member.control = None
        for pending in member.stacks:
            pending.fail("the worker has ended")
        member.stacks.clear()

    def _forget(self, member: Member) -> None:
        self._orphans.pop(member.key, None)
        self._members.pop(member.key, None)

    def _is_leaving(self, member: Member) -> bool:
        worker = plan.find_worker(self.state, member.key)
        return worker is None or worker.state not in (State.STARTING, State.READY)

    def _ready_members(self) -> list[Member]:
        keys = {worker.key for worker in self.state.workers if worker.state is State.READY}
        return [member for key, member in self._members.items() if key in keys]

    def _plan_tick(self) -> None:
        times = [plan.next_deadline(self.state), *self._orphans.values()]
        times.append(None if self.is_gone else self.watch.next_at)
        self.deadline = min((at for at in times if at is not None), default=None)

    def _on_control(self, member: Member, most: int) -> None:
        for _ in range(most):
            if member.control is None:
                return
            try:
                message = member.control.receive()
            except BlockingIOError:
                return
            except ValueError:
                message = None
            if message is None:
                self._release(member)
                return
            if message.kind == Control.STACKS_DONE and member.key in self._orphans:
                self._abandon(member)
            elif message.kind == Control.STACKS_DONE:
                self.apply(Event(Kind.STACKS_DONE, member.key))
            elif message.kind == Control.REFUSED:
                self.apply(Event(Kind.REFUSED, member.key, text=message.text))
            elif message.kind == Control.TOLD and member.stacks:
                self._tell_stacks(member, message.descriptors)
            message.close_descriptors()

    def _tell_stacks(self, member: Member, descriptors: list[int]) -> None:
        # The worker's word: text, of whatever it likes, within a bound.
        pending = member.stacks.pop(0)
        if not descriptors:
            pending.fail("the worker has no descriptor left to tell them with")
            return
        try:
            text = sealed.take(descriptors.pop(), sealed.TEXT_BYTES_MAX).decode("utf-8", "replace")
        except (OSError, ValueError) as found:
            pending.fail(f"what the worker sent cannot be read: {found}")
            return
        pending.done({"pool": self.name, "worker": member.number, "pid": member.pid, "text": text})

    def _name(self, member: Member) -> str:
        return f"pool {self.name}: {member.who}"


MESSAGES_PER_TURN = 16  # of one worker; then it is the others' turn
LINK_MESSAGES_MAX = 1024  # more than a link holds
_PROGRAMS = {"rapid_fail": ActionKind.RAPID_FAIL, "orphan": ActionKind.ORPHAN}
