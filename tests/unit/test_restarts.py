"""When a new spawner is started after the end of one."""

import pytest

from kernelq import restarts
from kernelq.restarts import MOST_NS, STEADY_NS, Restarts
from kernelq.units import SECOND


class Clock:
    now = 1000 * SECOND

    def monotonic_ns(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(restarts, "time", clock)
    return clock


def delay(one: Restarts) -> int:
    seconds = one.seconds_to_wait()
    assert seconds is not None
    assert one.is_due() == (seconds == 0)
    return round(seconds * SECOND)


def test_none_is_due_while_one_runs(clock: Clock) -> None:
    one = Restarts()
    one.on_death()
    assert one.is_due()
    one.on_start()
    clock.now += 10**6 * SECOND
    assert not one.is_due()
    assert one.seconds_to_wait() is None


def test_one_that_was_steady_is_replaced_at_once(clock: Clock) -> None:
    one = Restarts()
    for _ in range(30):
        one.on_start()
        clock.now += STEADY_NS + 1
        one.on_death()
        assert delay(one) == 0


def test_deaths_in_a_row_are_waited_for_longer_and_longer(clock: Clock) -> None:
    one = Restarts()
    delays = []
    for _ in range(30):
        one.on_start()
        one.on_death()
        delays.append(delay(one))
        clock.now += delays[-1]
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert delays[1] > 0
    assert delays[-1] == MOST_NS


def test_an_end_without_fault_waits_for_the_end_of_everything(clock: Clock) -> None:
    one = Restarts()
    one.on_end()
    assert 0 < delay(one) <= SECOND
    clock.now += SECOND
    assert one.is_due()
    one.on_failure()
    assert delay(one) == MOST_NS
