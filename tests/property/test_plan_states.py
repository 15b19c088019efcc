"""Whatever happens in whatever order, the plan keeps its bounds and forgets nobody."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from kernelq.pool.model import SECOND, Do, Event, Kind, Limits, Phase, State
from kernelq.pool.plan import find_worker, make_pool, next_deadline, step

WORKER_EVENTS = [
    Kind.READY,
    Kind.FIRST_ANSWER,
    Kind.UNHEALTHY,
    Kind.RECOVERED,
    Kind.HOPELESS,
    Kind.TIMEOUT,
    Kind.DISTRUSTED,
    Kind.STACKS_DONE,
    Kind.REFUSED,
]


class PlanMachine(RuleBasedStateMachine):
    """The plan against a model of the processes that its actions would have made."""

    @initialize(
        workers=st.integers(1, 4),
        rapid_fail=st.integers(0, 4),
    )
    def start(self, workers: int, rapid_fail: int) -> None:
        self.limits = Limits(
            workers, startup_ns=5 * SECOND, graceful_ns=3 * SECOND,
            rapid_fail_count=rapid_fail, rapid_fail_ns=20 * SECOND,
        )  # fmt: skip
        self.pool = make_pool(self.limits)
        self.now = 1000 * SECOND
        self.alive: set[int] = set()
        self.ready: set[int] = set()
        self.answered: set[int] = set()
        self.killed: set[int] = set()
        self.is_online = True
        self.stopped = 0
        self.gave_up = False
        self.hopeless: list[int] = []
        self.tell(Event(Kind.START))

    def tell(self, event: Event) -> None:
        self.pool, actions = step(self.pool, event, self.now)
        for action in actions:
            match action.kind:
                case Do.START:
                    assert action.worker not in self.alive
                    assert self.stopped == 0
                    self.alive.add(action.worker)
                case Do.DRAIN | Do.STACKS:
                    assert action.worker in self.alive
                case Do.SIGNAL:
                    assert action.worker in self.alive
                    self.killed.add(action.worker)
                case Do.POOL:
                    assert self.is_online == (action.text == "offline")
                    self.is_online = action.text == "online"
                case Do.STOPPED:
                    self.stopped += 1
                case Do.GIVE_UP:
                    self.gave_up = True
                case _:
                    pass

    def die(self, key: int) -> None:
        self.alive.discard(key)
        self.ready.discard(key)
        self.tell(Event(Kind.DIED, key))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), kind=st.sampled_from(WORKER_EVENTS))
    def worker_event(self, data: st.DataObject, kind: Kind) -> None:
        key = data.draw(st.sampled_from(sorted(self.alive)))
        if kind is Kind.READY:
            self.ready.add(key)
        if kind is Kind.FIRST_ANSWER and key not in self.ready:
            return
        self.tell(Event(kind, key, text="why" if kind is Kind.REFUSED else ""))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def death(self, data: st.DataObject) -> None:
        self.die(data.draw(st.sampled_from(sorted(self.alive))))

    @precondition(lambda self: self.alive)
    @rule()
    def all_become_ready(self) -> None:
        for key in sorted(self.alive - self.killed):
            self.ready.add(key)
            self.tell(Event(Kind.READY, key))

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 3.0, 6.0, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)
        self.tell(Event(Kind.TICK))

    @rule()
    def reload(self) -> None:
        self.tell(Event(Kind.RELOAD))

    @rule()
    def spawner_dies(self) -> None:
        self.tell(Event(Kind.SPAWNER_LOST))
        for key in sorted(self.alive):
            self.die(key)

    @invariant()
    def processes_are_bounded_and_known(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert {worker.key for worker in self.pool.workers} == self.alive
        assert len(self.alive) <= 2 * self.limits.workers
        wanted = [w for w in self.pool.workers if w.state in (State.STARTING, State.READY)]
        current = [w for w in wanted if w.generation == self.pool.generation]
        assert len(current) <= self.limits.workers
        assert sum(w.generation == self.pool.candidate for w in wanted) <= 1

    @invariant()
    def who_is_not_ready_has_a_deadline(self) -> None:
        if hasattr(self, "pool"):
            assert all(w.deadline or w.state is State.READY for w in self.pool.workers)

    @invariant()
    def no_replacement_is_lost(self) -> None:
        if not hasattr(self, "pool") or self.pool.phase is not Phase.RUNNING:
            return
        current = [
            w for w in self.pool.workers
            if w.generation == self.pool.generation and w.state in (State.STARTING, State.READY)
        ]  # fmt: skip
        is_complete = len(current) == self.limits.workers
        leaves = any(w.state not in (State.STARTING, State.READY) for w in self.pool.workers)
        assert is_complete or leaves or next_deadline(self.pool) is not None

    @invariant()
    def offline_only_when_tripped_and_nobody_serves(self) -> None:
        if not hasattr(self, "pool") or self.pool.phase is not Phase.RUNNING:
            return
        serves = any(w.state is State.READY for w in self.pool.workers)
        assert self.is_online == (serves or not self.pool.is_tripped)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.tell(Event(Kind.STOP, number=SECOND))
        for _ in range(100):
            if not self.alive:
                break
            deadline = next_deadline(self.pool)
            assert deadline is not None
            self.now = max(self.now, deadline)
            self.tell(Event(Kind.TICK))
            for key in sorted(self.alive & self.killed):
                self.die(key)
        assert not self.alive
        assert self.stopped == 1
        assert self.pool.phase is Phase.STOPPED


PlanMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPlan = PlanMachine.TestCase


def test_rapid_fail_trips_exactly_as_configured() -> None:
    for count in range(1, 6):
        pool = make_pool(Limits(1, rapid_fail_count=count, rapid_fail_ns=100 * SECOND))
        now = 0
        pool, _ = step(pool, Event(Kind.START), now)
        pool, _ = step(pool, Event(Kind.READY, 0), now)
        pool, _ = step(pool, Event(Kind.FIRST_ANSWER, 0), now)
        pool, _ = step(pool, Event(Kind.DIED, 0), now)
        deaths = 0
        while not pool.is_tripped:
            (worker,) = pool.workers
            assert find_worker(pool, worker.key) is worker
            pool, _ = step(pool, Event(Kind.DIED, worker.key), now)
            deaths += 1
            now += SECOND
            while not pool.workers and not pool.is_tripped:
                now += SECOND
                pool, _ = step(pool, Event(Kind.TICK), now)
        assert deaths == count
