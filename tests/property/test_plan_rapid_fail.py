"""Rapid-fail protection trips exactly as configured: against a count kept here, of what befell the
processes and not of what the plan made of it.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kernelq.pool.model import Do, Event, Kind, Limits
from kernelq.pool.plan import find_worker, make_pool, next_deadline, step
from kernelq.units import SECOND

STARTUP_NS, INTERVAL_NS = 5 * SECOND, 20 * SECOND


class RapidFailMachine(RuleBasedStateMachine):
    """An always running pool whose workers fail in every way."""

    @initialize(
        workers=st.integers(1, 3),
        most=st.integers(0, 4),
        counts=st.sampled_from(["startup", "all"]),
    )
    def start(self, workers: int, most: int, counts: str) -> None:
        self.most, self.counts = most, counts
        self.pool = make_pool(
            Limits(
                workers, workers, is_always_running=True, gives_up=False, startup_ns=STARTUP_NS,
                rapid_fail_count=most, rapid_fail_ns=INTERVAL_NS, rapid_fail_counts=counts,
            )
        )  # fmt: skip
        self.now = 1000 * SECOND
        self.starting: dict[int, int] = {}  # since when
        self.fresh: set[int] = set()  # READY, without an answer
        self.useful: set[int] = set()
        self.leaving: set[int] = set()
        self.failures: list[int] = []
        self.is_tripped = False
        self.next_try = 0
        self.tell(Event(Kind.START), [])

    def tell(self, event: Event, failures: list[int]) -> None:
        """`failures`: when the failures of this event were; the trip comes with the last needed."""
        trips = 0
        for when in failures:
            self.failures.append(when)
            count = sum(self.now - time < INTERVAL_NS for time in self.failures)
            if self.most and not self.is_tripped and count >= self.most:
                self.is_tripped = True
                self.next_try = self.now + INTERVAL_NS
                trips += 1
        self.pool, actions = step(self.pool, event, self.now)
        ran = [action for action in actions if action.kind is Do.RUN]
        told = [a for a in actions if a.kind is Do.REPORT and a.number == 5002]
        assert len(ran) == len(told) == trips
        assert self.pool.is_tripped == self.is_tripped
        started = [action.worker for action in actions if action.kind is Do.START]
        if self.is_tripped and started:
            assert len(started) == 1
            assert not self.starting
            assert self.now >= self.next_try
            self.next_try = self.now + INTERVAL_NS
        self.starting.update(dict.fromkeys(started, self.now))

    def fail(self, event: Event, is_counted: bool) -> None:
        self.tell(event, [self.now] if is_counted else [])

    def forget(self, key: int) -> bool:
        """Whether the worker's end is hopeless."""
        is_hopeless = key in self.starting or key in self.fresh
        self.starting.pop(key, None)
        self.fresh.discard(key)
        self.useful.discard(key)
        return is_hopeless

    def draw(self, data: st.DataObject, *groups: object) -> int:
        keys = sorted(set().union(*groups))  # type: ignore[arg-type]
        return int(data.draw(st.sampled_from(keys)))

    @precondition(lambda self: self.starting)
    @rule(data=st.data(), answers=st.booleans())
    def becomes_ready(self, data: st.DataObject, answers: bool) -> None:
        key = self.draw(data, self.starting)
        del self.starting[key]
        self.fresh.add(key)
        if self.is_tripped:
            self.is_tripped, self.failures = False, []
        self.tell(Event(Kind.READY, key), [])
        if answers:
            self.fresh.remove(key)
            self.useful.add(key)
            self.tell(Event(Kind.FIRST_ANSWER, key), [])

    @precondition(lambda self: self.starting or self.fresh or self.useful)
    @rule(data=st.data(), kind=st.sampled_from([Kind.DIED, Kind.DIED, Kind.DISTRUSTED]))
    def fails(self, data: st.DataObject, kind: Kind) -> None:
        key = self.draw(data, self.starting, self.fresh, self.useful)
        is_hopeless = self.forget(key)
        if kind is Kind.DISTRUSTED:
            self.leaving.add(key)
        self.fail(Event(kind, key), is_hopeless or self.counts == "all")

    @precondition(lambda self: self.fresh or self.useful)
    @rule(data=st.data(), kind=st.sampled_from([Kind.HOPELESS, Kind.TIMEOUT]))
    def is_replaced(self, data: st.DataObject, kind: Kind) -> None:
        key = self.draw(data, self.fresh, self.useful)
        self.forget(key)
        self.leaving.add(key)
        self.fail(Event(kind, key), kind is Kind.HOPELESS and self.counts == "all")

    @precondition(lambda self: self.leaving)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        key = self.draw(data, self.leaving)
        self.leaving.remove(key)
        self.tell(Event(Kind.DIED, key), [])

    @precondition(lambda self: self.starting or self.fresh or self.useful)
    @rule(data=st.data())
    def is_excused(self, data: st.DataObject) -> None:
        self.tell(Event(Kind.SPAWNER_LOST), [])
        for key in sorted({*self.starting, *self.fresh, *self.useful, *self.leaving}):
            if find_worker(self.pool, key).is_excused:  # type: ignore[union-attr]
                self.forget(key)
                self.leaving.discard(key)
                self.tell(Event(Kind.DIED, key), [])

    @rule(seconds=st.sampled_from([0.5, 2, 6, 19, 21]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + int(seconds * SECOND)
        while self.now < end:
            deadline = next_deadline(self.pool)
            self.now = min(end, deadline) if deadline else end
            late = [k for k, since in self.starting.items() if self.now >= since + STARTUP_NS]
            for key in late:
                self.forget(key)
                self.leaving.add(key)
            self.tell(Event(Kind.TICK), [self.now] * len(late))

    @rule()
    def administrator_starts_it(self) -> None:
        self.next_try = min(self.next_try, self.now)
        self.tell(Event(Kind.START), [])


RapidFailMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None
)
TestRapidFail = RapidFailMachine.TestCase


@pytest.mark.parametrize("count", range(1, 6))
def test_trips_at_the_configured_death(count: int) -> None:
    limits = Limits(
        1, is_always_running=True, rapid_fail_count=count, rapid_fail_ns=100 * SECOND
    )  # fmt: skip
    pool, now, deaths = make_pool(limits), 0, 0
    pool, _ = step(pool, Event(Kind.START), now)
    pool, _ = step(pool, Event(Kind.READY, 0), now)
    while not pool.is_tripped:
        (worker,) = pool.workers
        pool, _ = step(pool, Event(Kind.DIED, worker.key), now)
        deaths += 1
        while not pool.workers and not pool.is_tripped:
            now = next_deadline(pool) or 0
            pool, _ = step(pool, Event(Kind.TICK), now)
    assert deaths == count
