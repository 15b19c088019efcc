"""How many workers the pool's plan wants: demand, growth, idleness."""

from typing import Any

import pytest
from plays import Play

from kernelq.pool.model import Action, Do, Kind, Limits, State
from kernelq.pool.plan import next_deadline
from kernelq.units import MS, SECOND


def on_demand(most: int = 1, **limits: Any) -> Play:
    return Play(most, **({"is_always_running": False, "min_processes": 0} | limits))


def test_nobody_starts_before_a_request_waits() -> None:
    play = on_demand()
    play.tell(Kind.START)
    assert play.started() == []
    assert play.demand() == [0]
    assert next_deadline(play.pool) is None
    play.tell(Kind.DEMAND)
    assert play.reports() == [6040]
    assert play.started() == [0]
    assert play.demand() == []  # used up, and not wanted
    play.tell(Kind.READY, 0)
    assert play.demand() == []


def test_the_first_demand_starts_the_least_that_run() -> None:
    play = on_demand(3, min_processes=2)
    play.tell(Kind.START)
    play.tell(Kind.DEMAND)
    assert play.started() == [0, 1]


@pytest.mark.parametrize("kind", [Kind.DIED, Kind.HOPELESS, Kind.TIMEOUT, Kind.DISTRUSTED])
def test_who_is_lost_is_replaced_by_the_next_demand(kind: Kind) -> None:
    play = on_demand().serving()
    play.tell(kind, 0)
    assert play.started() == []
    assert play.demand() == [0]
    play.tell(Kind.DEMAND)
    assert play.started() == [1]


def test_always_running_is_replaced_at_once_up_to_the_least() -> None:
    play = Play(3, min_processes=1, grow_after_ns=5).serving()
    play.tell(Kind.DEMAND)
    play.tell(Kind.READY, 1)
    play.tell(Kind.DIED, 0)
    assert play.started() == []  # one is left
    play.tell(Kind.DIED, 1)
    assert play.started() == [2]
    assert play.demand() == [-1]


def test_demand_during_a_back_off_starts_when_it_ends() -> None:
    play = on_demand()
    play.tell(Kind.START)
    for key in (0, 1):
        play.tell(Kind.DEMAND)
        play.tell(Kind.DIED, key)
    play.tell(Kind.DEMAND)
    assert play.started() == []
    assert play.demand() == []
    assert next_deadline(play.pool) == play.now + 100 * MS
    play.wait(0.1)
    assert play.started() == [2]


def test_a_pool_on_demand_never_gives_up() -> None:
    play = on_demand(rapid_fail_count=1)
    play.tell(Kind.START)
    play.tell(Kind.DEMAND)
    play.tell(Kind.REFUSED, 0, text="no module")
    play.tell(Kind.DIED, 0)
    assert not play.done(Do.GIVE_UP)
    assert Action(Do.POOL, text="offline") in play.actions
    assert play.demand() == []
    play.wait(300)
    assert play.started() == [1]  # nobody can ask for it
    play.tell(Kind.READY, 1)
    assert Action(Do.POOL, text="online") in play.actions


def test_tripped_pool_that_lacks_nobody_recovers_after_its_interval() -> None:
    play = on_demand(2, rapid_fail_count=1, rapid_fail_ns=10 * SECOND).serving()
    play.tell(Kind.DEMAND)
    play.tell(Kind.DIED, 1)
    assert play.pool.is_tripped
    assert play.pool.told_state == "online"
    assert play.demand() == []
    assert next_deadline(play.pool) == play.now + 10 * SECOND
    play.wait(9)
    assert play.pool.is_tripped
    play.wait(1)
    assert not play.pool.is_tripped
    assert play.demand() == [100 * MS]


def test_a_garden_grows_by_one_while_requests_wait() -> None:
    play = on_demand(3, grow_after_ns=70 * MS)
    play.tell(Kind.START)
    play.tell(Kind.DEMAND)
    play.tell(Kind.READY, 0)
    assert play.demand() == [70 * MS]
    play.tell(Kind.DEMAND)
    assert play.started() == [1]
    assert play.reports() == [6041]
    assert play.demand() == []
    play.tell(Kind.DEMAND)  # one that was on its way: somebody is starting
    assert play.started() == []
    play.tell(Kind.READY, 1)
    assert play.demand() == [70 * MS]
    play.tell(Kind.DEMAND)
    play.tell(Kind.READY, 2)
    assert play.demand() == []  # as many as may be
    assert len(play.pool.workers) == 3


def grown(most: int = 3, **limits: Any) -> Play:
    """A pool with as many as may be, the last of them just started."""
    play = on_demand(most, threads=4, shrink_after_ns=60 * SECOND, **limits)
    play.tell(Kind.START)
    for key in range(most):
        play.tell(Kind.DEMAND)
        play.useful(key)
    return play


def test_it_shrinks_when_half_of_one_less_was_enough() -> None:
    play = grown()
    play.wait(60)
    assert play.done(Do.PEAK)
    play.tell(Kind.PEAK, number=5)  # more than half of 2 * 4
    assert play.drained() == []
    play.wait(60)
    play.tell(Kind.PEAK, number=4)
    assert play.reports() == [6042]
    assert play.drained() == [0]
    play.tell(Kind.DIED, 0)
    play.wait(60)
    play.tell(Kind.PEAK, number=2)
    assert play.drained() == [1]
    play.tell(Kind.DIED, 1)
    play.wait(60)
    assert not play.done(Do.PEAK)  # the last one is for IDLE
    assert not play.tell(Kind.PEAK)
    assert next_deadline(play.pool) is None


def test_it_does_not_shrink_soon_after_it_has_grown() -> None:
    play = grown()
    play.wait(59.9)
    play.tell(Kind.PEAK)
    assert play.drained() == []
    play.wait(0.1)
    play.tell(Kind.PEAK)
    assert play.drained() == [0]


def test_it_does_not_shrink_below_the_least() -> None:
    play = grown(min_processes=2)
    play.wait(60)
    play.tell(Kind.PEAK)
    assert play.drained() == [0]
    play.tell(Kind.DIED, 0)
    play.wait(600)
    assert not play.tell(Kind.PEAK)


def test_it_does_not_shrink_while_somebody_starts() -> None:
    play = grown()
    play.tell(Kind.RECYCLE)
    play.wait(60)
    assert not play.tell(Kind.PEAK)


def test_it_shrinks_by_whom_is_due_or_suspended_first() -> None:
    play = grown(idle_action="suspend")
    play.wait(60)
    play.tell(Kind.IDLE, 1)
    play.tell(Kind.PEAK)
    assert play.drained() == [1]
    assert play.done(Do.RESUME)[0].worker == 1


def test_peak_is_reset_when_measuring_begins() -> None:
    play = on_demand(2).serving()
    assert not play.done(Do.PEAK)
    play.tell(Kind.DEMAND)
    assert play.done(Do.PEAK)
    assert next_deadline(play.pool) == play.now + 60 * SECOND


def test_idle_worker_ends() -> None:
    play = on_demand().serving()
    play.tell(Kind.IDLE, 0)
    assert play.reports() == [5186]
    assert play.drained() == [0]
    assert play.demand() == [0]
    play.tell(Kind.DEMAND)
    assert play.started() == [1]


def test_idle_workers_stay_as_the_least() -> None:
    play = grown(min_processes=1)
    play.tell(Kind.IDLE, 1)
    play.tell(Kind.IDLE, 0)
    assert play.drained() == [0]
    assert not play.tell(Kind.IDLE, 2)
    assert play.state(2) is State.READY


def test_idle_worker_that_is_due_takes_its_replacement_along() -> None:
    play = on_demand().serving()
    play.tell(Kind.RECYCLE)
    play.tell(Kind.IDLE, 0)
    assert play.drained() == [0]
    assert play.signals() == [(1, 9)]
    play.tell(Kind.DIED, 0)
    play.tell(Kind.DIED, 1)
    assert play.pool.workers == ()
    assert play.pool.armed == 0


def test_always_running_ignores_idleness() -> None:
    play = Play(workers=1).serving()
    assert not play.tell(Kind.IDLE, 0)


def test_idle_worker_may_be_suspended() -> None:
    play = on_demand(idle_action="suspend").serving()
    play.tell(Kind.IDLE, 0)
    assert [action.kind for action in play.actions] == [Do.SUSPEND, Do.REPORT]
    assert play.reports() == [6030]
    assert play.state(0) is State.READY
    assert not play.tell(Kind.IDLE, 0)
    play.tell(Kind.ACTIVE, 0)
    assert [action.kind for action in play.actions] == [Do.RESUME, Do.REPORT]
    assert not play.tell(Kind.ACTIVE, 0)


def test_suspended_worker_is_resumed_before_it_leaves() -> None:
    for kind in (Kind.TIMEOUT, Kind.DISTRUSTED):
        play = on_demand(idle_action="suspend").serving()
        play.tell(Kind.IDLE, 0)
        play.tell(kind, 0)
        order = [a.kind for a in play.actions if a.kind in (Do.RESUME, Do.DRAIN, Do.SIGNAL)]
        assert order[0] is Do.RESUME
        assert len(order) == 2


def test_candidate_comes_beside_the_most() -> None:
    play = grown()
    play.tell(Kind.RELOAD)
    assert play.started() == [3]
    assert play.demand() == []
    play.tell(Kind.DEMAND)
    assert play.started() == []
    play.tell(Kind.READY, 3)
    assert play.drained() == [0]
    assert play.started() == [4]


def test_candidate_waits_for_another_that_overlaps() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.RECYCLE)
    play.tell(Kind.RELOAD)
    assert play.started() == []
    play.tell(Kind.READY, 1)
    assert play.drained() == [0]
    assert play.started() == []  # two processes exist; who leaves finishes what it has
    assert play.state(0) is State.DRAINING
    play.tell(Kind.DIED, 0)
    assert [(a.worker, a.number) for a in play.done(Do.START)] == [(2, 1)]


def test_fewer_are_allowed_now() -> None:
    play = grown()
    play.tell(Kind.CONFIGURE, limits=Limits(1))
    assert play.drained() == [0, 1]
    play.tell(Kind.CONFIGURE, limits=Limits(1, 1, is_always_running=True))
    assert not play.started()
