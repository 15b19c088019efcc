"""Whatever happens in whatever order, the plan keeps its bounds and forgets nobody.

The machine plays the executor, the core and the processes: it starts what the plan starts, and lets
each process do anything at any time. What it asserts it has counted itself.
"""

from collections import Counter
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kernelq.pool.events import EVENTS
from kernelq.pool.model import ORPHANS_MAX, Action, Do, Event, Kind, Limits, Phase, Pool, State
from kernelq.pool.plan import find_worker, make_pool, next_deadline, step
from kernelq.pool.steps import Turn
from kernelq.pool.table import FOLLOWS, TABLE, Place, Row
from kernelq.units import SECOND

UP = (Phase.INITIALIZED, Phase.RUNNING)
STAYING = (State.STARTING, State.READY)
OF_WORKERS = [
    Kind.READY, Kind.FIRST_ANSWER, Kind.REFUSED, Kind.UNHEALTHY, Kind.RECOVERED, Kind.HOPELESS,
    Kind.TIMEOUT, Kind.DISTRUSTED, Kind.STACKS_DONE, Kind.IDLE, Kind.ACTIVE, Kind.REQUESTS_LIMIT,
    Kind.MEMORY_LIMIT, Kind.PRIVATE_MEMORY_LIMIT,
]  # fmt: skip
OF_POOL = [
    Kind.RECYCLE, Kind.SCHEDULE, Kind.RELOAD, Kind.RELOAD, Kind.DEMAND, Kind.SPAWNER_LOST,
    Kind.START, Kind.STOP, Kind.CPU_LIMIT, Kind.CPU_INTERVAL,
]  # fmt: skip
LAST = [Kind.SHUTDOWN, Kind.REMOVE, Kind.STOP_NOW]


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    most = draw(st.integers(1, 4))
    return Limits(
        max_processes=most,
        min_processes=draw(st.integers(0, most)),
        is_always_running=draw(st.sampled_from([False, True])),
        threads=draw(st.integers(1, 4)),
        is_managed=draw(st.sampled_from([True, True, True, False])),
        gives_up=draw(st.booleans()),
        startup_ns=5 * SECOND,
        graceful_ns=draw(st.sampled_from([0, 3 * SECOND, 1000 * SECOND])),
        grow_after_ns=SECOND // 10,
        shrink_after_ns=7 * SECOND,
        idle_action=draw(st.sampled_from(["suspend", "terminate"])),
        recycle_ns=draw(st.sampled_from([0, 20 * SECOND])),
        is_overlap_allowed=draw(st.booleans()),
        waits_for_recycle=draw(st.booleans()),
        rapid_fail_count=draw(st.integers(0, 4)),
        rapid_fail_ns=20 * SECOND,
        rapid_fail_counts=draw(st.sampled_from(["startup", "all"])),
        leaves_orphans=draw(st.booleans()),
        cpu_action=draw(st.sampled_from(["none", "throttle", "kill"])),
    )


def watched(place: Place, kind: Kind, row: Row, seen: list[int]) -> Callable[[Pool, Turn], Pool]:
    """A row of the table that does what it says: its states and events are all it causes."""

    def run(pool: Pool, turn: Turn) -> Pool:
        before = len(turn.actions)
        after = row.run(pool, turn)
        ids = [action.number for action in turn.actions[before:] if action.kind is Do.REPORT]
        assert set(ids) <= set(row.reports), (place, kind, ids)
        seen.extend(ids)
        if isinstance(place, Phase):
            assert after.phase in (place, *row.to), (place, kind)
        else:
            assert after.phase is pool.phase
            worker = find_worker(after, turn.worker.key)
            gone = worker is None and kind is Kind.DIED
            assert gone or (worker and worker.state in (place, *row.to)), (place, kind)
        return after

    return run


class PlanMachine(RuleBasedStateMachine):
    """The plan against a model of the processes that its actions would have made."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = dict(TABLE)
        self.by_rows: list[int] = []
        for (place, kind), row in self.rows.items():
            TABLE[place, kind] = row._replace(run=watched(place, kind, row, self.by_rows))
        self.now = 1000 * SECOND
        self.alive: set[int] = set()
        self.orphans: set[int] = set()
        self.drained: set[int] = set()
        self.suspended: set[int] = set()
        self.dying: set[int] = set()  # a signal that nobody survives
        self.generations = {0}
        self.retired: set[int] = set()
        self.told = "online"
        self.armed = -1
        self.waits = False  # requests
        self.counts: Counter[Do] = Counter()

    @initialize(limits=limits(), is_started=st.sampled_from([True, True, True, False]))
    def start(self, limits: Limits, is_started: bool) -> None:
        self.pool = make_pool(limits)
        self.waits = True
        if is_started:
            self.tell(Event(Kind.START))

    def tell(self, event: Event) -> None:
        self.by_rows.clear()
        before = self.pool
        self.pool, actions = step(self.pool, event, self.now)
        for action in actions:
            self.counts[action.kind] += 1
            self.check_action(action)
        reports = Counter(action.number for action in actions if action.kind is Do.REPORT)
        assert set(reports - Counter(self.by_rows)) <= set(FOLLOWS)
        if before.phase is Phase.GONE:  # an orphan may outlive its pool
            assert not actions or event.worker in [worker.key for worker in before.orphans]
        if Do.PEAK in [action.kind for action in actions]:
            self.tell(Event(Kind.PEAK, number=self.pool.limits.threads if self.waits else 0))
        if (next_deadline(self.pool) or self.now + 1) > self.now:
            _, again = step(self.pool, Event(Kind.TICK), self.now)
            assert not again, "a step leaves nothing to be done at the same moment"
        self.fire()

    def fire(self) -> None:
        """What the core does as soon as its condition holds."""
        is_ready = any(worker.state is State.READY for worker in self.pool.workers)
        if self.armed >= 0 and self.waits and (self.armed or not is_ready):
            self.armed = -1
            self.tell(Event(Kind.DEMAND))

    def check_action(self, action: Action) -> None:
        key = action.worker
        match action.kind:
            case Do.START:
                assert self.pool.phase in UP
                assert key not in self.alive | self.orphans
                self.alive.add(key)
                assert len(self.alive) <= 2 * self.pool.limits.max_processes
                assert action.number in self.generations - self.retired
            case Do.DRAIN:
                assert key in self.alive - self.drained - self.dying - self.suspended
                self.drained.add(key)
            case Do.STACKS:
                assert key in self.alive - self.dying
            case Do.SIGNAL:
                assert key in self.alive
                self.dying.add(key)
            case Do.ORPHAN:
                assert key in self.alive - self.dying - self.suspended
                self.alive.remove(key)
                self.orphans.add(key)
            case Do.SUSPEND:
                assert key in self.alive - self.suspended - self.drained - self.dying
                self.suspended.add(key)
            case Do.RESUME:
                self.suspended.remove(key)
            case Do.GENERATION:
                assert action.number not in self.generations
                self.generations.add(action.number)
            case Do.RETIRE:
                assert action.number in self.generations - self.retired
                self.retired.add(action.number)
            case Do.POOL:
                assert self.told != action.text
                self.told = action.text
            case Do.AWAIT_DEMAND:
                assert self.armed != action.number
                self.armed = action.number
            case Do.REPORT:
                assert action.number in EVENTS
                assert action.text
                assert key == -1 or key < self.pool.next_key

    def die(self, key: int) -> None:
        for group in (self.alive, self.orphans, self.suspended):
            group.discard(key)
        self.tell(Event(Kind.DIED, key))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), kind=st.sampled_from(OF_WORKERS))
    def worker_event(self, data: st.DataObject, kind: Kind) -> None:
        key = data.draw(st.sampled_from(sorted(self.alive)))
        self.tell(Event(kind, key, text="why" if kind is Kind.REFUSED else ""))

    @precondition(lambda self: self.pool.workers)
    @rule(data=st.data())
    def fitting_event(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.pool.workers))
        kinds = [kind for place, kind in TABLE if place is worker.state and kind in OF_WORKERS]
        if not kinds:
            return
        self.tell(Event(data.draw(st.sampled_from(kinds)), worker.key, text="why"))

    @precondition(lambda self: self.alive | self.orphans)
    @rule(data=st.data())
    def death(self, data: st.DataObject) -> None:
        self.die(data.draw(st.sampled_from(sorted(self.alive | self.orphans))))

    @precondition(lambda self: self.alive)
    @rule(has_answered=st.sampled_from([True, True, False]))
    def who_starts_becomes_ready(self, has_answered: bool) -> None:
        for key in sorted(self.alive - self.dying):
            self.tell(Event(Kind.READY, key))
            if has_answered:
                self.tell(Event(Kind.FIRST_ANSWER, key))

    @precondition(lambda self: self.alive)
    @rule()
    def everybody_does_as_told(self) -> None:
        self.settle()

    @precondition(lambda self: any(w.state is State.STARTING for w in self.pool.workers))
    @rule(data=st.data(), kind=st.sampled_from([Kind.READY, Kind.READY, Kind.DIED]))
    def one_start_ends(self, data: st.DataObject, kind: Kind) -> None:
        keys = [worker.key for worker in self.pool.workers if worker.state is State.STARTING]
        key = data.draw(st.sampled_from(keys))
        if kind is Kind.DIED:
            self.die(key)
        else:
            self.tell(Event(kind, key))

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 6.0, 25.0]), is_stalled=st.booleans())
    def time_passes(self, seconds: float, is_stalled: bool) -> None:
        end = self.now + int(seconds * SECOND)
        while not is_stalled and (next_deadline(self.pool) or end) < end:
            self.now = next_deadline(self.pool) or end
            self.tell(Event(Kind.TICK))
        self.now = end
        self.tell(Event(Kind.TICK))

    @rule(kind=st.sampled_from(OF_POOL))
    def pool_event(self, kind: Kind) -> None:
        if kind is Kind.DEMAND:
            self.armed = -1  # one that was on its way when the plan disarmed it
        self.tell(Event(kind, number=SECOND))

    @rule(limits=limits(), is_restart=st.booleans(), is_meant=st.integers(0, 3))
    def configure(self, limits: Limits, is_restart: bool, is_meant: int) -> None:
        if is_meant:
            return
        self.tell(Event(Kind.CONFIGURE, limits=limits, is_restart=is_restart))
        self.tell(Event(Kind.TICK))

    @rule(waits=st.booleans())
    def requests(self, waits: bool) -> None:
        self.waits = waits
        self.fire()

    @precondition(lambda self: self.alive)
    @rule(is_meant=st.integers(0, 3))
    def spawner_dies(self, is_meant: int) -> None:
        if is_meant:
            return
        self.tell(Event(Kind.SPAWNER_LOST))
        for key in sorted(self.alive):
            self.die(key)

    @invariant()
    def processes_are_bounded_and_known(self) -> None:
        pool = self.pool
        assert {worker.key for worker in pool.workers} == self.alive
        assert {worker.key for worker in pool.orphans} == self.orphans
        assert len(pool.orphans) <= ORPHANS_MAX
        stay = [worker for worker in pool.workers if worker.state in STAYING]
        most = pool.limits.max_processes
        assert len(stay) <= (most + 1 if pool.phase in UP else 0)
        assert 0 <= pool.target <= most
        assert sum(worker.generation == pool.candidate for worker in stay) <= 1

    @invariant()
    def time_is_kept(self) -> None:
        pool = self.pool
        assert all(worker.deadline for worker in pool.workers if worker.state is not State.READY)
        deadline = next_deadline(pool)
        assert deadline is None or deadline > self.now, "no timer is left behind, to spin"

    @invariant()
    def nobody_is_forgotten(self) -> None:
        pool = self.pool
        if pool.phase not in UP:
            return
        stay = [w for w in pool.workers if w.state in STAYING and w.generation != pool.candidate]
        leaves = any(worker.state not in STAYING for worker in pool.workers)
        is_timed = next_deadline(pool) is not None
        if pool.limits.is_always_running:
            least = max(pool.limits.min_processes, 1)
            assert pool.target >= least
            assert len(stay) >= least or leaves or is_timed
        if self.waits and not stay:
            assert self.armed == 0 or leaves or is_timed

    @invariant()
    def demand_is_awaited_iff_wanted(self) -> None:
        pool = self.pool
        assert pool.armed == self.armed
        states = [w.state for w in pool.workers if w.state in STAYING]
        wanted = -1
        if pool.phase in UP and not pool.is_tripped:
            if pool.target == 0:
                wanted = 0
            elif states == [State.READY] * pool.target and pool.candidate < 0:
                is_full = pool.target == pool.limits.max_processes
                wanted = -1 if is_full else pool.limits.grow_after_ns
        assert self.armed == wanted

    @invariant()
    def phase_says_who_serves(self) -> None:
        pool = self.pool
        serves = any(worker.state is State.READY for worker in pool.workers)
        assert pool.phase not in UP or serves == (pool.phase is Phase.RUNNING)
        if pool.phase in UP:
            assert self.told == ("offline" if pool.is_tripped and not serves else "online")
        elif pool.phase in (Phase.DISABLING, Phase.DISABLED):
            assert self.told == "disabled"
        if pool.phase in (Phase.UNINITIALIZED, Phase.DISABLED, Phase.GONE):
            assert not pool.workers
        assert self.counts[Do.STOPPED] == (pool.phase is Phase.GONE)

    @precondition(lambda self: self.pool.phase is not Phase.RUNNING or self.pool.next_key > 8)
    @rule(kind=st.sampled_from(LAST), is_meant=st.integers(0, 7))
    def end(self, kind: Kind, is_meant: int) -> None:
        if is_meant == 0:
            self.tell(Event(kind, number=SECOND))

    def settle(self) -> None:
        """Everybody does as told, for as long as any back-off."""
        end = self.now + 60 * SECOND
        for _ in range(300):
            before = self.pool
            for worker in self.pool.workers:
                if worker.state is State.STARTING:
                    self.tell(Event(Kind.READY, worker.key))
                elif worker.state is not State.READY:
                    self.die(worker.key)
            if self.pool != before:
                continue
            deadline = next_deadline(self.pool)
            if deadline is None or deadline > end:
                return
            self.now = deadline
            self.tell(Event(Kind.TICK))
        raise AssertionError("it never comes to rest")

    def teardown(self) -> None:
        try:
            if hasattr(self, "pool"):
                self.check_rest()
                self.check_end()
        finally:
            TABLE.update(self.rows)

    def check_rest(self) -> None:
        self.tell(Event(Kind.CONFIGURE, limits=Limits(2, 1, is_always_running=True)))
        self.settle()
        pool = self.pool
        if pool.phase not in UP:
            assert not pool.workers
            return
        assert pool.candidate < 0
        assert not pool.is_tripped
        assert len(pool.workers) == pool.target
        for worker in pool.workers:
            assert worker.state is State.READY
            assert not worker.is_due
            assert worker.generation == pool.generation
        assert self.generations - self.retired <= {pool.generation, pool.waiting}

    def check_end(self) -> None:
        self.tell(Event(Kind.SHUTDOWN, number=SECOND))
        for _ in range(100):
            if not self.alive:
                break
            deadline = next_deadline(self.pool)
            assert deadline is not None
            self.now = max(self.now, deadline)
            self.tell(Event(Kind.TICK))
            for key in sorted(self.alive & self.dying):
                self.die(key)
        assert not self.alive
        assert self.counts[Do.STOPPED] == 1
        assert self.pool.phase is Phase.GONE


PlanMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=50, deadline=None, report_multiple_bugs=False
)
TestPlan = PlanMachine.TestCase
