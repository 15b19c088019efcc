"""The executor between a fake core and a spawner that the test plays, with real links."""

import errno
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from fakes import FakeCore, FakeHost

from kernelq import sealed
from kernelq.config import PoolSettings, RapidFailSettings, RecyclingSettings
from kernelq.letters import Control, FromSpawner, ToSpawner
from kernelq.link import Link, Message, link_from, link_pair
from kernelq.pool import executor
from kernelq.pool.executor import MESSAGES_PER_TURN, PoolExecutor
from kernelq.pool.model import Event, Kind, State
from kernelq.pool.orphan import ORPHAN_WORDS_NS

SIGKILL_STATUS = 9


class Stage:
    """An executor, its fake neighbours, and the spawner's end of its link."""

    def __init__(self, workers: int = 1, **settings: object) -> None:
        self.core = FakeCore()
        self.host = FakeHost()
        running = PoolSettings(
            start_mode="always_running", min_processes=workers, max_processes=workers
        )
        self.settings = replace(running, **settings)
        self.executor = PoolExecutor(self.core, self.host, self.settings, gives_up=True)
        self.spawner: Link | None = None
        self.links: list[Link] = []
        self.controls: dict[int, Link] = {}

    def bring_spawner(self) -> None:
        ours, theirs = link_pair()
        ours.set_blocking(False)
        self.links += [ours, theirs]
        self.spawner = ours
        self.executor.set_spawner(theirs)

    def asked(self) -> list[Message]:
        """What the spawner was asked; a START's control link is kept open for the worker."""
        assert self.spawner is not None
        messages = []
        while self.spawner.is_readable():
            message = self.spawner.receive()
            assert message is not None
            if message.kind == ToSpawner.START:
                self.controls[message.numbers[1]] = link_from(message.descriptors.pop())
            message.close_descriptors()
            messages.append(message)
        return messages

    def started(self) -> list[int]:
        return [m.numbers[1] for m in self.asked() if m.kind == ToSpawner.START]

    def answer(self, kind: int, *numbers: int, text: str = "", pidfd: bool = False) -> None:
        descriptors = [os.open(os.devnull, os.O_RDONLY)] if pidfd else []
        self.executor.on_spawner_message(Message(kind, numbers, text, descriptors))

    def confirm(self, number: int) -> None:
        self.answer(FromSpawner.STARTED, number, 1000 + number, pidfd=True)

    def serve(self, number: int) -> None:
        self.confirm(number)
        self.executor.on_core_event("ready", number, 0)
        self.executor.on_core_event("first_answer", number, 0)

    def die(self, number: int, status: int = SIGKILL_STATUS) -> None:
        self.executor.on_core_event("gone", number, 0)
        self.answer(FromSpawner.DIED, number, status, 20480, 0)

    def close(self) -> None:
        ours = [member.control for member in self.executor._members.values()]
        for link in (*self.links, *self.controls.values(), *ours):
            if link is not None:
                link.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    made.bring_spawner()
    yield made
    made.close()


def states(stage: Stage) -> list[State]:
    return [worker.state for worker in stage.executor.state.workers]


def test_start_passes_the_channel_and_a_control_link(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    (message,) = stage.asked()
    assert (message.kind, message.numbers) == (ToSpawner.START, (0, 1, 0))
    stage.serve(1)
    assert stage.host.told == ["serving"]
    assert states(stage) == [State.READY]


def test_death_is_replaced_at_gone_and_logged_when_the_status_is_known(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    assert stage.started() == [1]
    stage.serve(1)
    stage.executor.on_core_event("gone", 1, 0)
    assert stage.started() == [2]
    assert not any("died" in line for line in stage.host.lines)
    stage.answer(FromSpawner.DIED, 1, SIGKILL_STATUS, 20480, 0)
    (line,) = [line for line in stage.host.lines if "died" in line]
    assert "worker 1 (pid 1001) died: signal 9 (SIGKILL), 20.0 MiB at most" in line
    assert "GET /x of 192.0.2.1" in line
    assert ("forget", 1) in stage.core.calls
    assert len(stage.host.watched) == 1


def test_status_may_come_before_gone(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.serve(1)
    stage.answer(FromSpawner.DIED, 1, 0, 20480, 0)
    assert stage.started() == []
    stage.executor.on_core_event("gone", 1, 0)
    assert stage.started() == [2]
    assert any("exit status 0" in line for line in stage.host.lines)


def test_failed_start_is_aborted_and_its_reason_reaches_the_plan(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.answer(FromSpawner.FAILED, 1, text="no module named app")
    assert stage.host.told == ["given up: no module named app", "stopped"]
    assert stage.core.known == set()
    assert not stage.host.watched


def test_worker_says_itself_why_it_refuses(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.confirm(1)
    stage.controls[1].send(Control.REFUSED, text="no such attribute")
    stage.executor.on_core_event("gone", 1, 0)  # before the message was looked at
    assert stage.host.told[0] == "given up: no such attribute"


def test_stacks_are_asked_for_and_their_end_kills(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.serve(1)
    stage.executor.apply(Event(Kind.SHUTDOWN))
    stage.executor.apply(Event(Kind.TICK))
    message = stage.controls[1].receive()
    assert message is not None
    assert message.kind == Control.STACKS
    stage.controls[1].send(Control.STACKS_DONE)
    (on_readable,) = stage.host.watched.values()
    on_readable()
    assert [m.numbers for m in stage.asked() if m.kind == ToSpawner.SIGNAL] == [(1, 9)]


def test_without_spawner_starts_wait_for_one() -> None:
    stage = Stage(workers=2)
    stage.executor.apply(Event(Kind.START))
    assert stage.core.known == set()
    stage.bring_spawner()
    assert stage.started() == [1, 2]
    stage.close()


def test_spawner_death_repeats_unconfirmed_starts_and_excuses_deaths() -> None:
    stage = Stage(workers=2, rapid_fail=RapidFailSettings(max_crashes=1))
    stage.bring_spawner()
    stage.executor.apply(Event(Kind.START))
    assert stage.started() == [1, 2]
    stage.serve(1)
    stage.executor.set_spawner(None)
    assert stage.core.known == {1}
    stage.executor.on_core_event("gone", 1, 0)
    assert any("died with its spawner" in line for line in stage.host.lines)
    stage.bring_spawner()
    assert stage.started() == [3, 4]
    assert not stage.executor.state.is_tripped
    stage.close()


def test_deaths_seen_before_the_end_of_their_spawner_are_excused_too() -> None:
    stage = Stage(workers=2, rapid_fail=RapidFailSettings(max_crashes=1))
    stage.bring_spawner()
    stage.executor.apply(Event(Kind.START))
    stage.started()
    for number in (1, 2):
        stage.confirm(number)
        stage.executor.on_core_event("ready", number, 0)
    assert stage.spawner is not None
    stage.spawner.close()
    for number in (1, 2):
        stage.executor.on_core_event("gone", number, 0)
    stage.executor.set_spawner(None)
    assert not stage.executor.state.is_tripped
    assert len(stage.host.watched) == 0
    stage.bring_spawner()
    assert len(stage.started()) == 2
    stage.close()


def test_no_channel_is_a_death_that_counts(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.serve(1)
    stage.core.is_full = True
    stage.die(1)
    assert stage.started() == []
    assert any("no channel" in line for line in stage.host.lines)
    assert stage.executor.state.hopeless.stamps


def test_messages_about_the_unknown_are_dropped(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.answer(FromSpawner.STARTED, 77, 5, pidfd=True)
    stage.answer(FromSpawner.DIED, 77, 0, 0, 0)
    stage.executor.on_core_event("gone", 77, 0)
    assert states(stage) == [State.STARTING]


def test_stop_ends_with_everybody_buried(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.serve(1)
    stage.executor.apply(Event(Kind.SHUTDOWN, number=10**9))
    assert ("drain", 1) in stage.core.calls
    stage.executor.on_core_event("gone", 1, 0)
    assert stage.host.told[-1] == "stopped"
    assert not stage.executor.is_buried
    stage.answer(FromSpawner.DIED, 1, 0, 20480, 0)
    assert stage.executor.is_buried


def test_kill_of_a_start_that_waits_for_a_spawner_removes_it() -> None:
    stage = Stage()
    stage.executor.apply(Event(Kind.START))
    stage.executor.apply(Event(Kind.STOP_NOW))
    assert stage.host.told[-1] == "stopped"
    stage.bring_spawner()
    assert stage.started() == []
    stage.close()


def test_an_on_demand_pool_starts_when_a_request_waits() -> None:
    stage = Stage(start_mode="on_demand", min_processes=0)
    stage.bring_spawner()
    stage.executor.apply(Event(Kind.START))
    assert stage.started() == []
    assert stage.core.demands == [(0, 0)]
    stage.executor.on_core_event("demand", -1, 0)
    assert stage.started() == [1]
    stage.close()


def test_a_worker_is_told_how_many_requests_it_may_answer() -> None:
    stage = Stage(recycling=RecyclingSettings(requests=100, jitter=0.1))
    stage.bring_spawner()
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.serve(1)
    assert 90 <= stage.core.quotas[1] <= 100
    stage.executor.on_core_event("quota", 1, 100)
    assert stage.started() == [2]
    assert 5075 in stage.host.events
    stage.serve(2)
    assert ("drain", 1) in stage.core.calls
    stage.close()


def test_new_limits_replace_nobody_and_a_new_index_does(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.serve(1)
    assert not stage.executor.configure(replace(stage.settings, startup_limit_ns=1))
    assert stage.started() == []
    assert stage.executor.configure(replace(stage.settings, index=5))
    (message,) = stage.asked()
    assert (message.kind, message.numbers) == (ToSpawner.START, (5, 2, 1))
    stage.serve(2)
    assert stage.host.told[-1] == "reloaded"
    assert ("drain", 1) in stage.core.calls
    stage.die(2)
    (message,) = [one for one in stage.asked() if one.kind == ToSpawner.START]
    assert message.numbers == (5, 3, 1)


def test_new_settings_that_do_not_start_leave_the_old_worker(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.serve(1)
    stage.executor.configure(replace(stage.settings, index=5))
    assert stage.started() == [2]
    stage.answer(FromSpawner.FAILED, 2, text="no such user")
    assert stage.host.told[-1] == "reload failed"
    assert ("drain", 1) not in stage.core.calls
    stage.die(1)
    (message,) = [one for one in stage.asked() if one.kind == ToSpawner.START]
    assert message.numbers == (0, 3, 0)


def stage_with_orphan() -> Stage:
    """Worker 1 is to be left to a debugger, and is asked for its stacks first."""
    stage = Stage(orphan_worker_process=True)
    stage.bring_spawner()
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.serve(1)
    stage.executor.on_core_event("hopeless", 1, 0)
    return stage


def test_an_orphan_is_stopped_taken_from_the_core_and_replaced() -> None:
    stage = stage_with_orphan()
    message = stage.controls[1].receive()
    assert message is not None
    assert message.kind == Control.STACKS
    assert not [m for m in stage.asked() if m.kind == ToSpawner.SIGNAL]
    stage.controls[1].send(Control.STACKS_DONE)
    for on_readable in list(stage.host.watched.values()):
        on_readable()
    asked = stage.asked()
    assert [m.numbers for m in asked if m.kind == ToSpawner.SIGNAL] == [(1, 19)]
    assert ("abandon", 1) in stage.core.calls
    assert any("left for a debugger" in line for line in stage.host.lines)
    assert stage.core.known == {1, 2}
    stage.executor.on_core_event("gone", 1, 0)
    assert [worker.key for worker in stage.executor.state.orphans] == [0]
    stage.answer(FromSpawner.DIED, 1, SIGKILL_STATUS, 20480, 0)
    assert stage.executor.state.orphans == ()
    stage.close()


def test_stacks_of_a_living_worker_come_as_a_text(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.serve(1)
    member = stage.executor.find_member(1001)
    assert member is not None
    answers: list[object] = []
    stage.executor.ask_stacks(member).then(lambda answer, text: answers.append(answer or text))
    message = stage.controls[1].receive()
    assert message is not None
    assert message.kind == Control.TELL_STACKS
    descriptor = sealed.put("stacks", "thread ä".encode())
    stage.controls[1].send(Control.TOLD, descriptors=[descriptor])
    os.close(descriptor)
    (on_readable,) = stage.host.watched.values()
    on_readable()
    assert answers == [{"pool": "default", "worker": 1, "pid": 1001, "text": "thread ä"}]
    second = stage.executor.ask_stacks(member)
    third = stage.executor.ask_stacks(member)
    stage.controls[1].send(Control.TOLD)  # it has no descriptor left
    on_readable()
    second.then(lambda answer, text: answers.append(answer or text))
    assert answers[-1] == "the worker has no descriptor left to tell them with"
    stage.die(1)
    third.then(lambda answer, text: answers.append(answer or text))
    assert answers[-1] == "the worker has ended"


def hang_in_start(stage: Stage) -> None:
    """The start-up time limit of a worker that has no process yet passes."""
    stage.executor.apply(Event(Kind.START))
    stage.executor.apply(Event(Kind.TICK))


def test_a_start_without_a_process_leaves_no_orphan() -> None:
    # A zygote that hangs in the import of the application: its workers have no pid yet.
    stage = Stage(orphan_worker_process=True, startup_limit_ns=1)
    stage.bring_spawner()
    hang_in_start(stage)
    asked = stage.asked()
    assert [m.numbers for m in asked if m.kind == ToSpawner.SIGNAL] == [(1, 9)]
    assert not [m for m in asked if m.kind == ToSpawner.ACTION]
    assert ("abandon", 1) not in stage.core.calls
    stage.answer(FromSpawner.FAILED, 1)
    assert stage.executor.state.orphans == ()
    stage.close()


def test_a_start_that_waits_for_a_spawner_leaves_no_orphan() -> None:
    stage = Stage(orphan_worker_process=True, startup_limit_ns=1)
    hang_in_start(stage)
    assert stage.executor.state.orphans == ()
    assert [member.key for member in stage.executor.members] == [1]
    stage.close()


def test_a_start_that_was_given_up_is_not_repeated_with_the_next_spawner() -> None:
    for leaves_orphans in (True, False):
        stage = Stage(orphan_worker_process=leaves_orphans, startup_limit_ns=1)
        stage.bring_spawner()
        hang_in_start(stage)
        stage.executor.set_spawner(None)
        stage.close()
        stage.bring_spawner()
        assert stage.core.known == set(stage.started()) != {1}
        assert stage.executor.state.orphans == ()
        stage.close()


def test_an_orphan_that_dies_while_it_is_asked_for_its_stacks_is_not_abandoned() -> None:
    stage = stage_with_orphan()
    stage.controls[1].send(Control.STACKS_DONE)
    stage.executor.on_core_event("gone", 1, 0)
    stage.executor.tick(time.monotonic_ns() + 2 * ORPHAN_WORDS_NS)
    assert ("abandon", 1) not in stage.core.calls
    stage.answer(FromSpawner.DIED, 1, SIGKILL_STATUS, 20480, 0)
    assert stage.executor.state.orphans == ()
    assert stage.core.known == {2}
    stage.close()


def refuse_links() -> tuple[Link, Link]:
    raise OSError(errno.EMFILE, "Too many open files")


def test_no_control_link_is_a_death_that_counts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(executor, "link_pair", refuse_links)
        stage.executor.apply(Event(Kind.START))
    assert stage.core.known == set()
    assert any("no channel" in line for line in stage.host.lines)
    assert stage.executor.state.hopeless.stamps


def test_no_channel_leaves_no_control_link(stage: Stage) -> None:
    stage.core.is_full = True
    before = len(os.listdir("/proc/self/fd"))
    stage.executor.apply(Event(Kind.START))
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_that_cannot_be_passed_are_a_death_that_counts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(link: Link, *numbers: int, descriptors: Sequence[int]) -> None:
        raise OSError(errno.ETOOMANYREFS, "Too many references")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(Link, "send", refuse)
        stage.executor.apply(Event(Kind.START))
    assert stage.core.known == set()
    assert not stage.host.watched
    assert stage.executor.state.hopeless.stamps
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_worker_that_never_stops_talking_has_its_turn_only(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.serve(1)
    sent = 0
    stage.controls[1].set_blocking(False)
    while stage.controls[1].try_send(Control.TOLD):
        sent += 1
    (on_readable,) = stage.host.watched.values()
    on_readable()
    (member,) = stage.executor.members
    assert member.control is not None
    left = 0
    while member.control.is_readable():
        member.control.receive()
        left += 1
    assert 0 < sent - left < sent


def test_all_that_a_worker_has_said_is_read_when_it_has_died(stage: Stage) -> None:
    stage.executor.apply(Event(Kind.START))
    stage.started()
    stage.confirm(1)
    for _ in range(MESSAGES_PER_TURN):
        stage.controls[1].send(Control.TOLD)
    stage.controls[1].send(Control.REFUSED, text="no such attribute")
    stage.executor.on_core_event("gone", 1, 0)
    assert stage.host.told[0] == "given up: no such attribute"
