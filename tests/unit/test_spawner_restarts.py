"""When a new spawner is started after the death of one."""

import time

from kernelq.supervisor import SPAWNER_RESTART_MOST_NS, SPAWNER_STEADY_NS, Supervisor

KILLED = 9  # a wait status


def supervisor(age_ns: int, deaths: int) -> Supervisor:
    one = object.__new__(Supervisor)  # only what this is about: no processes
    one._spawner_started_ns = time.monotonic_ns() - age_ns
    one._spawner_deaths = deaths
    return one


def test_one_that_was_steady_is_replaced_at_once() -> None:
    for deaths in range(10):
        one = supervisor(SPAWNER_STEADY_NS + 1, deaths)
        one._plan_spawner(KILLED)
        assert 0 < one._spawner_at <= time.monotonic_ns()


def test_deaths_in_a_row_are_waited_for_longer_and_longer() -> None:
    one = supervisor(0, 0)
    delays = []
    for _ in range(12):
        one._spawner_started_ns = time.monotonic_ns()
        one._plan_spawner(KILLED)
        delays.append(max(0, one._spawner_at - time.monotonic_ns()))
    assert delays[0] == 0
    assert delays[1] > 0
    assert max(delays) <= SPAWNER_RESTART_MOST_NS
    assert delays[-1] > delays[1]
