"""The pool's plan, event by event, with a clock that only the tests move."""

from plays import Play

from kernelq.pool.model import Action, Do, Kind, Phase, State
from kernelq.pool.plan import next_deadline
from kernelq.pool.rapid_fail import CRASHES_FREE
from kernelq.pool.steps import KILL_AGAIN_NS
from kernelq.pool.table import TABLE
from kernelq.units import SECOND

SIGABRT, SIGKILL = 6, 9


def test_start_starts_every_worker() -> None:
    play = Play(workers=3)
    play.tell(Kind.START)
    assert play.started() == [0, 1, 2]
    play.tell(Kind.START)
    assert not play.actions


def test_first_ready_worker_announces_serving_once() -> None:
    play = Play()
    play.tell(Kind.START)
    play.tell(Kind.READY, 0)
    assert play.done(Do.SERVING)
    play.tell(Kind.READY, 1)
    assert not play.done(Do.SERVING)


def test_death_of_useful_worker_is_replaced_at_once() -> None:
    play = Play().serving()
    play.tell(Kind.DIED, 0)
    assert play.started() == [2]


def test_many_crashes_grow_a_back_off() -> None:
    play = Play(workers=1).serving()
    for key in range(CRASHES_FREE):
        play.tell(Kind.DIED, key)
        assert play.started() == [key + 1]
        play.tell(Kind.READY, key + 1)
        play.tell(Kind.FIRST_ANSWER, key + 1)
    play.tell(Kind.DIED, CRASHES_FREE)
    assert play.started() == []
    assert next_deadline(play.pool) == play.now + SECOND // 10
    play.wait(0.1)
    assert play.started() == [CRASHES_FREE + 1]


def test_rapid_fail_trips_at_the_limit_and_not_before() -> None:
    play = Play(workers=1, rapid_fail_count=3, rapid_fail_ns=10 * SECOND).serving()
    play.tell(Kind.DIED, 0)  # useful: not counted
    for key in (1, 2):
        play.tell(Kind.DIED, key)
        play.wait(0.5)
        assert play.started() or any(w.key == key + 1 for w in play.pool.workers)
        assert not play.pool.is_tripped
    play.tell(Kind.DIED, 3)
    assert play.pool.is_tripped
    assert Action(Do.POOL, text="offline") in play.actions
    play.wait(9)
    assert play.started() == []
    play.wait(1)
    assert play.started() == [4]


def test_deaths_outside_the_window_do_not_trip() -> None:
    play = Play(workers=1, rapid_fail_count=2, rapid_fail_ns=10 * SECOND).serving()
    play.tell(Kind.DIED, 0)
    for key in range(1, 6):
        play.tell(Kind.DIED, key)
        assert not play.pool.is_tripped
        play.wait(10)


def test_rapid_fail_off_never_trips() -> None:
    play = Play(workers=1, rapid_fail_count=0).serving()
    play.tell(Kind.DIED, 0)
    for key in range(1, 50):
        play.tell(Kind.DIED, key)
        play.wait(31)
    assert not play.pool.is_tripped


def test_try_that_succeeds_brings_the_pool_back() -> None:
    play = Play(workers=2, rapid_fail_count=1, rapid_fail_ns=10 * SECOND).serving()
    play.tell(Kind.DIED, 0)
    play.tell(Kind.DIED, 2)
    assert play.pool.is_tripped
    assert play.pool.told_state == "online"  # worker 1 still serves
    play.tell(Kind.DIED, 1)
    assert play.pool.told_state == "offline"
    play.wait(10)
    assert play.started() == [3]
    play.tell(Kind.READY, 3)
    assert Action(Do.POOL, text="online") in play.actions
    assert play.started() == [4]


def test_try_that_fails_waits_for_the_next_interval() -> None:
    play = Play(workers=1, rapid_fail_count=1, rapid_fail_ns=10 * SECOND).serving()
    play.tell(Kind.DIED, 0)
    play.tell(Kind.DIED, 1)
    play.wait(10)
    play.tell(Kind.DIED, 2)
    assert play.started() == []
    play.wait(9.9)
    assert play.started() == []
    play.wait(0.1)
    assert play.started() == [3]


def test_reload_of_a_tripped_pool_tries_at_once() -> None:
    play = Play(workers=1, rapid_fail_count=1).serving()
    play.tell(Kind.DIED, 0)
    play.tell(Kind.DIED, 1)
    play.tell(Kind.RELOAD)
    assert play.started() == [2]
    play.tell(Kind.READY, 2)
    assert not play.pool.is_tripped
    assert play.pool.told_state == "online"


def test_rapid_fail_before_anybody_was_ready_gives_up() -> None:
    play = Play(workers=1, rapid_fail_count=2)
    play.tell(Kind.START)
    play.tell(Kind.DIED, 0)
    play.tell(Kind.DIED, 1)
    assert play.done(Do.GIVE_UP)
    assert play.done(Do.STOPPED)


def test_refusal_at_first_start_gives_up_with_its_reason() -> None:
    play = Play(workers=2)
    play.tell(Kind.START)
    play.tell(Kind.REFUSED, 0, text="no module named app")
    play.tell(Kind.DIED, 0)
    assert [action.text for action in play.done(Do.GIVE_UP)] == ["no module named app"]
    assert play.signals() == [(1, SIGKILL)]
    play.tell(Kind.DIED, 1)
    assert play.done(Do.STOPPED)


def test_refusal_at_a_later_start_counts_as_hopeless() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.DIED, 0)
    play.tell(Kind.REFUSED, 1, text="no more")
    play.tell(Kind.DIED, 1)
    assert not play.done(Do.GIVE_UP)
    assert play.pool.hopeless.count(play.now) == 1
    assert any(action.text == "no more" for action in play.done(Do.REPORT))


def test_start_beyond_its_time_limit_is_killed_and_counted() -> None:
    play = Play(workers=1, startup_ns=90 * SECOND)
    play.tell(Kind.START)
    play.wait(90)
    assert play.done(Do.STACKS)
    assert play.pool.hopeless.count(play.now) == 1
    play.wait(1)
    assert play.signals() == [(0, SIGABRT)]
    play.wait(1)
    assert play.signals() == [(0, SIGKILL)]
    play.now += KILL_AGAIN_NS
    play.tell(Kind.TICK)
    assert play.signals() == [(0, SIGKILL)]
    play.tell(Kind.DIED, 0)
    assert play.pool.hopeless.count(play.now) == 1


def test_reload_overlaps_one_worker_at_a_time() -> None:
    play = Play(workers=2).serving()
    play.tell(Kind.RELOAD)
    assert play.started() == [2]
    assert not play.done(Do.DRAIN)
    play.tell(Kind.READY, 2)
    assert play.drained() == [0]
    assert play.started() == [3]
    assert Action(Do.RELOADED, number=1) in play.actions
    assert Action(Do.RETIRE, number=0) in play.actions
    play.tell(Kind.READY, 3)
    assert play.drained() == [1]


def test_reload_with_broken_code_leaves_the_old_workers() -> None:
    play = Play(workers=2).serving()
    play.tell(Kind.RELOAD)
    play.tell(Kind.REFUSED, 2, text="SyntaxError")
    play.tell(Kind.DIED, 2)
    assert [play.state(0), play.state(1)] == [State.READY, State.READY]
    assert any("SyntaxError" in action.text for action in play.done(Do.REPORT))
    assert Action(Do.RELOADED, number=0) in play.actions
    assert play.started() == []
    play.tell(Kind.DIED, 0)  # its replacement is of the old generation
    assert [(a.worker, a.number) for a in play.done(Do.START)] == [(3, 0)]


def test_second_reload_replaces_the_candidate() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.RELOAD)
    play.tell(Kind.RELOAD)
    assert play.signals() == [(1, SIGKILL)]
    assert play.started() == []  # two processes exist: no room
    play.tell(Kind.DIED, 1)
    assert [(a.worker, a.number) for a in play.done(Do.START)] == [(2, 2)]
    play.tell(Kind.READY, 2)
    assert play.drained() == [0]


def test_old_workers_that_still_start_end_with_a_reload() -> None:
    play = Play(workers=2).serving()
    play.tell(Kind.DIED, 0)
    play.tell(Kind.RELOAD)
    play.tell(Kind.READY, 3)
    assert play.signals() == [(2, SIGKILL)]


def test_request_timeout_starts_the_replacement_at_once() -> None:
    play = Play(workers=1, graceful_ns=30 * SECOND).serving()
    play.tell(Kind.TIMEOUT, 0)
    assert play.drained() == [0]
    assert play.started() == [1]
    play.tell(Kind.READY, 1)
    play.wait(30)
    assert [action.worker for action in play.done(Do.STACKS)] == [0]
    play.tell(Kind.STACKS_DONE, 0)
    assert play.signals() == [(0, SIGKILL)]
    play.tell(Kind.DIED, 0)
    assert play.started() == []


def test_unhealthy_worker_stays_until_it_is_hopeless() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.UNHEALTHY, 0)
    play.tell(Kind.RECOVERED, 0)
    assert play.state(0) is State.READY
    play.tell(Kind.HOPELESS, 0)
    assert play.state(0) is State.DRAINING
    assert play.started() == [1]


def test_distrusted_worker_is_killed_and_replaced() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.DISTRUSTED, 0)
    assert play.signals() == [(0, SIGKILL)]
    assert play.started() == [1]


def test_who_leaves_slowly_is_hastened_when_its_place_is_needed() -> None:
    play = Play(workers=1, graceful_ns=1000 * SECOND).serving()
    play.tell(Kind.TIMEOUT, 0)
    play.tell(Kind.READY, 1)
    play.tell(Kind.TIMEOUT, 1)
    assert play.started() == []
    assert play.state(0) is State.LAST_WORDS
    play.tell(Kind.DIED, 0)
    assert play.started() == [2]


def test_deaths_with_the_spawner_are_nobodys_fault() -> None:
    play = Play(workers=2, rapid_fail_count=1)
    play.tell(Kind.START)
    play.tell(Kind.READY, 0)
    play.tell(Kind.SPAWNER_LOST)
    play.tell(Kind.DIED, 0)
    play.tell(Kind.DIED, 1)
    assert play.pool.hopeless.count(play.now) == 0
    assert len(play.pool.workers) == 2


def test_stop_drains_and_ends_when_all_are_dead() -> None:
    play = Play(workers=2).serving()
    play.tell(Kind.DIED, 0)  # worker 2 is starting
    play.tell(Kind.SHUTDOWN, number=30 * SECOND)
    assert play.drained() == [1]
    assert play.signals() == [(2, SIGKILL)]
    play.tell(Kind.DIED, 2)
    assert play.started() == []
    play.tell(Kind.DIED, 1)
    assert play.done(Do.STOPPED)
    assert play.pool.phase is Phase.GONE


def test_stop_without_grace_asks_for_stacks_first() -> None:
    play = Play(workers=1).serving()
    play.tell(Kind.SHUTDOWN)
    play.wait(0.001)
    assert play.done(Do.STACKS)
    play.tell(Kind.STACKS_DONE, 0)
    assert play.done(Do.SIGNAL)


def test_stop_now_kills_whatever_there_is() -> None:
    play = Play(workers=2).serving()
    play.tell(Kind.SHUTDOWN, number=30 * SECOND)
    play.tell(Kind.STOP_NOW)
    assert {(a.worker, a.number) for a in play.done(Do.SIGNAL)} == {(0, SIGKILL), (1, SIGKILL)}


def test_late_events_change_nothing() -> None:
    play = Play(workers=1).serving()
    before = play.pool
    for kind in (Kind.READY, Kind.REFUSED, Kind.STACKS_DONE):
        assert not play.tell(kind, 0)
    assert not play.tell(Kind.READY, 99)
    assert play.pool == before


def test_table_covers_every_death_and_deadline() -> None:
    assert all((state, Kind.DIED) in TABLE for state in State)
    assert all((state, Kind.TICK) in TABLE for state in set(State) - {State.ORPHANED})
    lives = set(Phase) - {Phase.GONE}
    assert all((phase, Kind.STOP_NOW) in TABLE for phase in lives)
    assert not any(place is Phase.GONE for place, _ in TABLE)


def test_every_event_is_in_the_table() -> None:
    assert {kind for _, kind in TABLE} == set(Kind)
