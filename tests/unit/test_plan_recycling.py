"""Recycling in the pool's plan: what makes a worker due, and how it is replaced."""

from dataclasses import replace

import pytest
from plays import Play

from kernelq.pool.model import Action, Do, Kind, Limits, State
from kernelq.pool.plan import next_deadline
from kernelq.pool.recycling import early
from kernelq.pool.table import TABLE
from kernelq.units import HOUR, SECOND

SIGKILL = 9


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (Kind.REQUESTS_LIMIT, 5075),
        (Kind.MEMORY_LIMIT, 5077),
        (Kind.PRIVATE_MEMORY_LIMIT, 5117),
    ],
)
def test_trigger_of_one_worker_replaces_it_with_overlap(kind: Kind, number: int) -> None:
    play = Play(workers=2).serving()
    play.tell(kind, 1, text="so much")
    assert play.reports() == [number]
    assert play.done(Do.REPORT)[0].text.endswith("(so much)")
    assert (play.started(), play.drained()) == ([2], [])
    play.tell(kind, 1)
    assert play.actions == []  # once per worker
    play.tell(Kind.READY, 2)
    assert (play.started(), play.drained()) == ([], [1])
    play.tell(Kind.DIED, 1)
    assert play.states() == {0: State.READY, 2: State.READY}


@pytest.mark.parametrize(("kind", "number"), [(Kind.SCHEDULE, 5076), (Kind.RECYCLE, 5079)])
def test_trigger_of_the_pool_replaces_one_after_the_other(kind: Kind, number: int) -> None:
    play = Play(workers=2).serving()
    play.tell(kind)
    assert play.reports() == [number, number]
    assert play.started() == [2]
    play.tell(Kind.READY, 2)
    assert (play.started(), play.drained()) == ([3], [0])
    play.tell(Kind.DIED, 0)
    assert play.started() == []
    play.tell(Kind.READY, 3)
    assert (play.started(), play.drained()) == ([], [1])
    play.tell(Kind.DIED, 1)
    assert (play.started(), play.drained()) == ([], [])


def test_time_limit_counts_from_ready_and_moves_with_the_settings() -> None:
    play = Play(workers=1, recycle_ns=HOUR, jitter=0.0)
    play.tell(Kind.START)
    play.wait(50)
    play.tell(Kind.READY, 0)
    assert next_deadline(play.pool) == play.now + HOUR
    play.wait(3599)
    assert play.started() == []
    play.wait(1)
    assert play.reports() == [5074]
    assert play.started() == [1]
    play.tell(Kind.READY, 1)
    assert play.drained() == [0]
    limits = Limits(1, 1, is_always_running=True, recycle_ns=100 * SECOND, jitter=0.0)
    play.tell(Kind.CONFIGURE, limits=limits)
    play.tell(Kind.DIED, 0)
    assert next_deadline(play.pool) == play.now + 100 * SECOND


def test_jitter_is_early_and_differs_by_worker_and_seed() -> None:
    limits = Limits(jitter=0.25, seed=7)
    times = [early(limits, key, HOUR) for key in range(200)]
    assert times == [early(limits, key, HOUR) for key in range(200)]
    assert len(set(times)) == 200
    assert HOUR * 3 // 4 <= min(times) < HOUR * 8 // 10
    assert HOUR * 95 // 100 < max(times) <= HOUR
    assert times != [early(Limits(jitter=0.25, seed=8), key, HOUR) for key in range(200)]
    assert early(Limits(jitter=0.0), 3, 10_000) == 10_000


def test_a_garden_that_is_due_together_is_recycled_one_after_the_other() -> None:
    play = Play(workers=3, recycle_ns=HOUR, jitter=0.0).serving()
    play.wait(3600)
    assert play.reports() == [5074] * 3
    for old, new in enumerate((3, 4, 5)):
        assert [key for key, state in play.states().items() if state is State.STARTING] == [new]
        play.tell(Kind.READY, new)
        assert play.drained() == [old]
        play.tell(Kind.DIED, old)
    assert set(play.states()) == {3, 4, 5}


def test_without_overlap_the_old_one_is_gone_first() -> None:
    play = Play(workers=2, is_overlap_allowed=False).serving()
    play.tell(Kind.RECYCLE)
    assert (play.started(), play.drained()) == ([], [0])
    play.wait(1)
    assert play.actions == []
    play.tell(Kind.DIED, 0)
    assert (play.started(), play.drained()) == ([2], [])
    play.tell(Kind.READY, 2)
    assert (play.started(), play.drained()) == ([], [1])


def test_without_overlap_the_old_one_stays_during_a_back_off() -> None:
    play = Play(workers=1, is_overlap_allowed=False).serving()
    play.tell(Kind.TIMEOUT, 0)
    play.useful(1)
    play.pool = replace(play.pool, start_after=play.now + 5 * SECOND)
    play.tell(Kind.RECYCLE)
    assert play.drained() == []
    assert next_deadline(play.pool) == play.now + 5 * SECOND
    play.wait(5)
    assert play.drained() == [1]


def test_without_overlap_on_demand_the_new_one_needs_no_demand() -> None:
    play = Play(1, is_always_running=False, is_overlap_allowed=False).serving()
    play.tell(Kind.RECYCLE)
    assert play.drained() == [0]
    assert play.pool.armed == -1
    play.tell(Kind.DIED, 0)
    assert play.started() == [1]


def test_without_overlap_an_unhealthy_one_is_replaced_at_once() -> None:
    play = Play(workers=1, is_overlap_allowed=False).serving()
    play.tell(Kind.HOPELESS, 0)
    assert (play.started(), play.drained()) == ([1], [0])


def test_replacement_that_fails_leaves_the_old_one_and_is_tried_again() -> None:
    play = Play(workers=1, rapid_fail_count=1).serving()
    play.tell(Kind.RECYCLE)
    for key, delay in ((1, 0.1), (2, 0.2), (3, 0.4)):
        play.tell(Kind.REFUSED, key, text="no")
        play.tell(Kind.DIED, key)
        assert play.reports() == [5009, 5093]
        assert play.state(0) is State.READY
        assert not play.pool.is_tripped
        assert play.started() == []
        assert next_deadline(play.pool) == play.now + int(delay * SECOND)
        play.wait(delay)
        assert play.started() == [key + 1]
    play.tell(Kind.READY, 4)
    assert play.drained() == [0]
    play.tell(Kind.RECYCLE)
    play.tell(Kind.DIED, 0)
    play.tell(Kind.DIED, 5)
    assert next_deadline(play.pool) == play.now + SECOND // 10  # from the beginning


def test_replacement_that_starts_too_slowly_leaves_the_old_one() -> None:
    play = Play(workers=1, startup_ns=5 * SECOND).serving()
    play.tell(Kind.RECYCLE)
    play.wait(5)
    assert play.reports() == [5012, 5093]
    assert play.state(0) is State.READY


def test_replacement_of_one_that_dies_meanwhile_takes_its_place() -> None:
    for is_always_running in (True, False):
        play = Play(1, is_always_running=is_always_running).serving()
        play.tell(Kind.RECYCLE)
        play.tell(Kind.DIED, 0)
        assert play.started() == []
        play.tell(Kind.READY, 1)
        assert play.states() == {1: State.READY}
        assert play.drained() == []


def test_no_replacement_while_leavers_fill_the_pool() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.TIMEOUT, 0)
    play.useful(1)
    play.tell(Kind.RECYCLE)
    assert play.started() == []  # two processes exist
    play.tell(Kind.DIED, 0)
    assert play.started() == [2]


def test_a_starting_worker_is_not_recycled() -> None:
    play = Play(workers=1)
    play.tell(Kind.START)
    assert not play.tell(Kind.RECYCLE)
    assert (State.STARTING, Kind.REQUESTS_LIMIT) not in TABLE


def test_new_settings_are_tried_and_the_others_follow() -> None:
    play = Play(workers=2).serving()
    limits = Limits(3, 3, is_always_running=True)
    play.tell(Kind.CONFIGURE, limits=limits, is_restart=True)
    assert play.reports() == [5080]
    assert Action(Do.GENERATION, number=1) in play.actions
    assert [(a.worker, a.number) for a in play.done(Do.START)] == [(2, 1)]
    assert play.pool.limits.max_processes == 2
    play.tell(Kind.READY, 2)
    assert play.pool.limits == limits
    assert Action(Do.RELOADED, number=1) in play.actions
    assert Action(Do.RETIRE, number=0) in play.actions
    assert play.drained() == []  # all three are wanted now
    assert play.started() == [3]
    play.tell(Kind.READY, 3)
    assert play.drained() == [0]


def test_new_settings_that_fail_change_nothing() -> None:
    play = Play(workers=1).serving()
    before = play.pool.limits
    play.tell(Kind.CONFIGURE, limits=Limits(4), is_restart=True)
    play.tell(Kind.REFUSED, 1, text="no such file")
    play.tell(Kind.DIED, 1)
    assert Action(Do.RELOADED, number=0) in play.actions
    assert Action(Do.RETIRE, number=1) in play.actions
    assert play.reports() == [5009, 6052]
    assert play.pool.limits == before
    assert play.states() == {0: State.READY}
    assert next_deadline(play.pool) is None


def test_new_settings_without_a_restart_are_in_force_at_once() -> None:
    play = Play(workers=2).serving()
    play.tell(Kind.CONFIGURE, limits=Limits(1, 1, is_always_running=True))
    assert play.reports() == [6008]
    assert play.drained() == [0]
    play.tell(Kind.CONFIGURE, limits=Limits(2, 2, is_always_running=True))
    assert play.started() == [2]
    assert not play.done(Do.GENERATION)


def test_new_settings_may_wait_for_the_next_recycle() -> None:
    play = Play(workers=2, waits_for_recycle=True).serving()
    limits = Limits(2, 2, is_always_running=True, waits_for_recycle=True, threads=9)
    play.tell(Kind.CONFIGURE, limits=limits, is_restart=True)
    assert play.reports() == [6053]
    assert Action(Do.RELOADED, number=2) in play.actions
    assert play.started() == []
    assert play.pool.limits.threads == 4
    play.tell(Kind.DIED, 0)
    assert play.done(Do.START)[0].number == 0  # no recycle
    play.useful(2)
    play.tell(Kind.REQUESTS_LIMIT, 1)
    assert [(a.worker, a.number) for a in play.done(Do.START)] == [(3, 1)]
    play.tell(Kind.READY, 3)
    assert play.pool.limits.threads == 9
    assert play.drained() == [1]
    assert [(a.worker, a.number) for a in play.done(Do.START)] == [(4, 1)]


def test_waiting_settings_are_taken_when_nobody_is_left_to_recycle() -> None:
    play = Play(1, is_always_running=False, min_processes=0, waits_for_recycle=True).serving()
    play.tell(Kind.CONFIGURE, limits=Limits(1, waits_for_recycle=True), is_restart=True)
    play.tell(Kind.IDLE, 0)
    assert play.pool.generation == 1
    play.tell(Kind.DEMAND)
    assert [(a.worker, a.number) for a in play.done(Do.START)] == [(1, 1)]


def test_iis5_waits_for_no_recycle() -> None:
    play = Play(workers=1, is_managed=False).serving()
    limits = Limits(1, 1, is_always_running=True, is_managed=False, waits_for_recycle=True)
    play.tell(Kind.CONFIGURE, limits=limits, is_restart=True)
    assert play.started() == [1]


def test_limits_that_change_during_a_trial_stay_when_it_ends() -> None:
    play = Play(workers=1).serving()
    limits = Limits(1, 1, is_always_running=True, threads=8)
    play.tell(Kind.CONFIGURE, limits=limits, is_restart=True)
    play.tell(Kind.CONFIGURE, limits=replace(limits, startup_ns=5))
    play.tell(Kind.READY, 1)
    assert play.pool.limits == replace(limits, startup_ns=5)


def test_newer_settings_overtake_those_on_trial_and_those_that_wait() -> None:
    for waits in (False, True):
        play = Play(workers=1, waits_for_recycle=waits).serving()
        for threads in (7, 8):
            limits = Limits(
                1, 1, is_always_running=True, waits_for_recycle=waits, threads=threads
            )  # fmt: skip
            play.tell(Kind.CONFIGURE, limits=limits, is_restart=True)
        assert Action(Do.RETIRE, number=1) in play.actions
        if waits:
            play.tell(Kind.RECYCLE)
        else:
            assert play.signals() == [(1, SIGKILL)]
            play.tell(Kind.DIED, 1)
        (start,) = play.done(Do.START)
        assert start.number == 2
        play.tell(Kind.READY, start.worker)
        assert play.pool.limits.threads == 8


def test_a_reload_brings_settings_along_that_are_on_trial() -> None:
    play = Play(workers=1).serving()
    limits = Limits(1, 1, is_always_running=True, threads=9)
    play.tell(Kind.CONFIGURE, limits=limits, is_restart=True)
    play.tell(Kind.RELOAD)
    play.tell(Kind.DIED, 1)
    play.tell(Kind.READY, 2)
    assert play.pool.limits.threads == 9


def test_reload_without_overlap_takes_the_new_code_untried() -> None:
    play = Play(workers=1, is_overlap_allowed=False).serving()
    play.tell(Kind.RELOAD)
    assert Action(Do.RELOADED, number=1) in play.actions
    assert (play.started(), play.drained()) == ([], [0])
    play.tell(Kind.DIED, 0)
    assert [(a.worker, a.number) for a in play.done(Do.START)] == [(1, 1)]


def test_reload_of_a_pool_without_workers_starts_nobody() -> None:
    play = Play(1, is_always_running=False)
    play.tell(Kind.START)
    play.tell(Kind.RELOAD)
    assert Action(Do.RELOADED, number=1) in play.actions
    assert play.started() == []
    play.tell(Kind.DEMAND)
    assert [(a.worker, a.number) for a in play.done(Do.START)] == [(0, 1)]


def test_iis5_only_restarts() -> None:
    play = Play(workers=1, is_managed=False, recycle_ns=SECOND, rapid_fail_count=1).serving()
    before = play.pool
    for kind in (Kind.REQUESTS_LIMIT, Kind.MEMORY_LIMIT, Kind.PRIVATE_MEMORY_LIMIT,
                 Kind.HOPELESS, Kind.TIMEOUT, Kind.IDLE):  # fmt: skip
        assert not play.tell(kind, 0)
    for kind in (Kind.RECYCLE, Kind.SCHEDULE, Kind.CPU_LIMIT):
        assert not play.tell(kind)
    assert play.pool == before
    assert next_deadline(play.pool) is None
    play.tell(Kind.DIED, 0)
    for key in range(1, 10):
        assert play.pool.workers
        play.tell(Kind.DIED, key)
        assert not play.pool.is_tripped
        play.wait(60)
