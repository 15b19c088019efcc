"""The phases of a pool, its limit of processor time, and workers left to a debugger."""

from dataclasses import replace
from typing import Any

import pytest
from plays import Play

from kernelq.pool.events import EVENTS
from kernelq.pool.model import ORPHANS_MAX, Action, Do, Event, Kind, Limits, Phase, State
from kernelq.pool.plan import make_pool, next_deadline, step
from kernelq.pool.steps import is_up
from kernelq.pool.table import FOLLOWS, TABLE
from kernelq.units import SECOND

SIGKILL = 9
INSIDE = {Kind.SERVES, Kind.SERVES_NO_MORE, Kind.UNSTARTABLE, Kind.EMPTY}


def test_phases_have_the_numbers_of_the_counter() -> None:
    names = ["UNINITIALIZED", "INITIALIZED", "RUNNING", "DISABLING", "DISABLED",
             "SHUTDOWN_PENDING", "DELETE_PENDING", "GONE"]  # fmt: skip
    assert [(phase.name, phase.value) for phase in Phase] == [
        (name, number) for number, name in enumerate(names, 1)
    ]


def test_a_life() -> None:
    play = Play(1)
    seen = [play.pool.phase]
    for kind, worker in (
        (Kind.START, -1), (Kind.READY, 0), (Kind.DIED, 0), (Kind.READY, 1), (Kind.STOP, -1),
        (Kind.DIED, 1), (Kind.START, -1), (Kind.READY, 2), (Kind.SHUTDOWN, -1), (Kind.DIED, 2),
    ):  # fmt: skip
        play.tell(kind, worker)
        seen.append(play.pool.phase)
    assert seen == [
        Phase.UNINITIALIZED, Phase.INITIALIZED, Phase.RUNNING, Phase.INITIALIZED, Phase.RUNNING,
        Phase.DISABLING, Phase.DISABLED, Phase.INITIALIZED, Phase.RUNNING, Phase.SHUTDOWN_PENDING,
        Phase.GONE,
    ]  # fmt: skip


def test_stopped_by_an_administrator() -> None:
    play = Play(workers=2).serving()
    play.tell(Kind.DIED, 0)
    play.tell(Kind.STOP, number=30 * SECOND)
    assert Action(Do.POOL, text="disabled") in play.actions
    assert play.drained() == [1]
    assert play.signals() == [(2, SIGKILL)]
    assert play.reports() == [6002]
    assert play.pool.workers[0].deadline == play.now + 30 * SECOND
    play.tell(Kind.DIED, 1)
    play.tell(Kind.DIED, 2)
    assert play.reports() == [6003]
    assert not play.done(Do.STOPPED)
    assert next_deadline(play.pool) is None
    for kind in (Kind.DEMAND, Kind.RECYCLE, Kind.TICK, Kind.CPU_INTERVAL, Kind.SCHEDULE):
        assert not play.tell(kind)


def test_started_again_with_clean_tallies() -> None:
    play = Play(workers=1, rapid_fail_count=2).serving()
    for key in (0, 1, 2):
        play.tell(Kind.DIED, key)
        play.wait(1)
    assert play.pool.is_tripped
    play.tell(Kind.STOP)
    assert play.pool.phase is Phase.DISABLED
    play.tell(Kind.START)
    assert play.started() == [3]
    assert Action(Do.POOL, text="online") in play.actions
    assert not play.pool.failures.stamps
    play.tell(Kind.DIED, 3)
    assert not play.pool.is_tripped


def test_started_again_before_everybody_has_left() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.STOP, number=30 * SECOND)
    play.tell(Kind.START)
    assert play.started() == [1]
    assert play.state(0) is State.DRAINING
    assert play.pool.phase is Phase.INITIALIZED


def test_stop_takes_what_was_on_trial() -> None:
    play = Play(workers=1).serving()
    limits = Limits(1, 1, is_always_running=True, threads=9)
    play.tell(Kind.CONFIGURE, limits=limits, is_restart=True)
    play.tell(Kind.STOP)
    assert Action(Do.RELOADED, number=1) in play.actions
    play.tell(Kind.DIED, 0)
    play.tell(Kind.DIED, 1)
    assert play.pool.phase is Phase.DISABLED
    play.tell(Kind.START)
    assert [(a.worker, a.number) for a in play.done(Do.START)] == [(2, 1)]
    assert play.pool.limits.threads == 9


def test_not_started_with_the_server() -> None:
    play = Play(workers=1)
    play.tell(Kind.STOP)
    assert play.pool.phase is Phase.DISABLED
    assert Action(Do.POOL, text="disabled") in play.actions
    play.tell(Kind.RELOAD)
    assert play.started() == []
    play.tell(Kind.START)
    assert [(a.worker, a.number) for a in play.done(Do.START)] == [(0, 1)]


def test_stop_for_good_during_a_stop() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.STOP, number=30 * SECOND)
    play.tell(Kind.STOP, number=SECOND)
    assert play.pool.workers[0].deadline == play.now + SECOND


@pytest.mark.parametrize("kind", [Kind.REMOVE, Kind.SHUTDOWN, Kind.STOP_NOW])
def test_nothing_follows_the_end(kind: Kind) -> None:
    # Whoever hears STOPPED closes the pool: the core must not be asked about it any more.
    play = Play(workers=1, is_always_running=False)
    play.tell(Kind.START)
    assert play.tell(kind)[-1].kind is Do.STOPPED
    assert play.pool.phase is Phase.GONE


@pytest.mark.parametrize("is_stopped", [False, True])
def test_removed(is_stopped: bool) -> None:
    play = Play(workers=1).serving()
    if is_stopped:
        play.tell(Kind.STOP, number=30 * SECOND)
    play.tell(Kind.REMOVE, number=5 * SECOND)
    assert play.pool.phase is Phase.DELETE_PENDING
    assert Action(Do.POOL, text="shutdown") in play.actions
    assert play.pool.workers[0].deadline == play.now + 5 * SECOND
    assert not play.tell(Kind.START)
    play.tell(Kind.DIED, 0)
    assert play.reports() == [6005]
    assert play.done(Do.STOPPED)
    assert play.pool.phase is Phase.GONE


def test_removed_without_workers() -> None:
    play = Play(1, is_always_running=False)
    play.tell(Kind.START)
    play.tell(Kind.REMOVE)
    assert play.reports() == [6004, 6005]
    assert play.demand() == [-1]


def test_shutdown_leaves_the_word_to_the_server() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.SHUTDOWN, number=SECOND)
    assert not play.done(Do.POOL)


def test_shutdown_hastens_a_removal() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.REMOVE, number=100 * SECOND)
    play.tell(Kind.SHUTDOWN, number=SECOND)
    assert play.pool.workers[0].deadline == play.now + SECOND
    play.tell(Kind.STOP_NOW)
    assert play.signals() == [(0, SIGKILL)]
    play.tell(Kind.DIED, 0)
    assert play.reports() == [6005]


def test_gives_up_only_where_it_may() -> None:
    for gives_up in (True, False):
        play = Play(workers=1, gives_up=gives_up)
        play.tell(Kind.START)
        play.tell(Kind.REFUSED, 0, text="no module")
        play.tell(Kind.DIED, 0)
        assert bool(play.done(Do.GIVE_UP)) == gives_up
        assert play.reports() == ([5009, 5059, 6007] if gives_up else [5009, 6022])


def test_rapid_fail_runs_its_program_once() -> None:
    play = Play(workers=1, rapid_fail_count=1, rapid_fail_ns=10 * SECOND).serving()
    play.tell(Kind.DIED, 0)
    play.tell(Kind.DIED, 1)
    assert play.done(Do.RUN) == [Action(Do.RUN, text="rapid_fail")]
    assert play.reports() == [5009, 5002, 6011]
    play.wait(10)
    assert play.reports() == [6060]
    play.tell(Kind.DIED, 2)
    assert not play.done(Do.RUN)


def test_rapid_fail_may_count_all() -> None:
    play = Play(workers=1, rapid_fail_count=4, rapid_fail_counts="all", startup_ns=5 * SECOND)
    play.serving()
    play.tell(Kind.DIED, 0)  # useful
    play.useful(1)
    play.tell(Kind.HOPELESS, 1)
    play.wait(5)  # 2 was too slow
    play.tell(Kind.DIED, 2)
    play.tell(Kind.DIED, 1)
    play.useful(3)
    assert len(play.pool.failures.stamps) == 3
    play.tell(Kind.TIMEOUT, 3)  # not its process's fault
    assert not play.pool.is_tripped
    play.useful(4)
    play.tell(Kind.DISTRUSTED, 4)
    assert play.pool.is_tripped


def test_administrator_makes_a_tripped_pool_try_at_once() -> None:
    play = Play(workers=1, rapid_fail_count=1).serving()
    play.tell(Kind.DIED, 0)
    play.tell(Kind.DIED, 1)
    play.tell(Kind.START)
    assert play.started() == [2]
    play.tell(Kind.DIED, 2)
    assert play.started() == []
    assert play.pool.is_tripped


def orphaning(**limits: Any) -> Play:
    return Play(**({"workers": 1, "leaves_orphans": True, "startup_ns": 5 * SECOND} | limits))


def test_hopeless_worker_is_left_to_a_debugger() -> None:
    play = orphaning().serving()
    play.tell(Kind.HOPELESS, 0)
    assert play.reports() == [5010, 6032]
    assert Action(Do.ORPHAN, 0) in play.actions
    assert Action(Do.RUN, 0, text="orphan") in play.actions
    assert play.started() == [1]
    assert set(play.states()) == {1}
    for kind in (Kind.READY, Kind.TIMEOUT, Kind.STACKS_DONE, Kind.DISTRUSTED):
        assert not play.tell(kind, 0)
    play.tell(Kind.DIED, 0)
    assert play.reports() == [6033]
    assert play.pool.orphans == ()


def test_slow_start_is_left_to_a_debugger_and_counted() -> None:
    play = orphaning(rapid_fail_count=1, gives_up=False)
    play.tell(Kind.START)
    play.wait(5)
    assert play.done(Do.ORPHAN)
    assert play.pool.is_tripped


def test_worker_that_does_not_end_after_a_timeout_is_left_to_a_debugger() -> None:
    play = orphaning(graceful_ns=10 * SECOND).serving()
    play.tell(Kind.TIMEOUT, 0)
    assert not play.done(Do.ORPHAN)
    play.useful(1)
    play.tell(Kind.RECYCLE)
    play.wait(10)
    assert [action.worker for action in play.done(Do.ORPHAN)] == [0]
    assert not play.done(Do.STACKS)


def test_worker_that_drains_slowly_for_another_reason_is_killed() -> None:
    play = orphaning(graceful_ns=SECOND).serving()
    play.tell(Kind.RECYCLE)
    play.useful(1)
    play.wait(1)
    assert play.reports() == [5013]
    assert play.done(Do.STACKS)


def test_pool_that_ends_leaves_no_orphans() -> None:
    play = orphaning(graceful_ns=10 * SECOND).serving()
    play.tell(Kind.TIMEOUT, 0)
    play.tell(Kind.SHUTDOWN, number=SECOND)
    play.wait(1)
    assert [action.worker for action in play.done(Do.STACKS)] == [0]


def test_orphans_are_bounded_and_nothing_waits_for_them() -> None:
    play = orphaning().serving()
    for key in range(ORPHANS_MAX):
        play.tell(Kind.HOPELESS, key)
        play.useful(key + 1)
    assert len(play.pool.orphans) == ORPHANS_MAX
    play.tell(Kind.HOPELESS, ORPHANS_MAX)
    assert play.drained() == [ORPHANS_MAX]
    play.tell(Kind.STOP_NOW)
    for key in list(play.states()):
        play.tell(Kind.DIED, key)
    assert play.done(Do.STOPPED)


def test_cpu_limit_that_only_reports() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.CPU_LIMIT, text="151 % of one CPU")
    assert [action.kind for action in play.actions] == [Do.REPORT]
    assert play.reports() == [5025]
    assert not play.tell(Kind.CPU_INTERVAL)


def test_cpu_limit_that_throttles() -> None:
    play = Play(workers=1, cpu_action="throttle").serving()
    play.tell(Kind.CPU_LIMIT)
    assert play.done(Do.THROTTLE)[0].number == 1
    assert not play.tell(Kind.CPU_LIMIT)
    play.tell(Kind.CPU_INTERVAL)
    assert play.done(Do.THROTTLE)[0].number == 0
    assert not play.tell(Kind.CPU_INTERVAL)


def test_cpu_limit_that_kills_until_the_interval_is_over() -> None:
    play = Play(workers=1, cpu_action="kill").serving()
    play.tell(Kind.CPU_LIMIT)
    assert play.signals() == [(0, SIGKILL)]
    assert Action(Do.POOL, text="disabled") in play.actions
    play.tell(Kind.DIED, 0)
    assert play.started() == []
    assert play.pool.phase is Phase.DISABLED
    play.tell(Kind.CPU_INTERVAL)
    assert play.reports() == [6070, 6001, 6012]
    assert play.started() == [1]


def test_pool_stopped_for_its_cpu_and_then_for_good() -> None:
    play = Play(workers=1, cpu_action="kill").serving()
    play.tell(Kind.CPU_LIMIT)
    play.tell(Kind.STOP)
    play.tell(Kind.DIED, 0)
    assert not play.tell(Kind.CPU_INTERVAL)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.GONE])
@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in INSIDE])
def test_what_the_table_lacks_changes_nothing(phase: Phase, kind: Kind) -> None:
    if (phase, kind) in TABLE:
        return
    told = {Phase.DELETE_PENDING: "shutdown", Phase.UNINITIALIZED: "online"}.get(phase, "disabled")
    pool = make_pool(Limits())
    pool, _ = step(pool, Event(Kind.START), 5)
    pool, _ = step(pool, Event(Kind.DEMAND), 5)
    pool = replace(pool, phase=phase, told_state=told, armed=-1)
    if is_up(pool):
        pool = replace(pool, phase=Phase.INITIALIZED, told_state="online")
        if phase is Phase.RUNNING:
            pool, _ = step(pool, Event(Kind.READY, 0), 5)
    after, actions = step(pool, Event(kind), 6)
    assert (after, actions) == (pool, [])


def test_every_report_is_an_event_and_every_event_is_reported() -> None:
    told = {number for row in TABLE.values() for number in row.reports} | set(FOLLOWS)
    assert told == set(EVENTS)
    assert len({row.name for row in EVENTS.values()}) == len(EVENTS)
    for row in EVENTS.values():
        assert row.iis6 in (0, row.id - 4000)
        assert row.text
