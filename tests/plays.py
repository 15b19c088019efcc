"""The pool's plan on a stage: a pool, a clock that only the test moves, what the last event did."""

from typing import Any

from kernelq.pool.model import Action, Do, Event, Kind, Limits, Pool, State
from kernelq.pool.plan import make_pool, step
from kernelq.units import SECOND


class Play:
    """By default a pool as the command line makes it: so many workers, always running."""

    def __init__(self, workers: int = 2, **limits: Any) -> None:
        limits = {"is_always_running": True, "min_processes": workers} | limits
        self.pool: Pool = make_pool(Limits(workers, **limits))
        self.now = 1000 * SECOND
        self.actions: list[Action] = []

    def tell(self, kind: Kind, worker: int = -1, number: int = 0, **more: Any) -> list[Action]:
        self.pool, self.actions = step(self.pool, Event(kind, worker, number, **more), self.now)
        return self.actions

    def wait(self, seconds: float) -> list[Action]:
        self.now += int(seconds * SECOND)
        return self.tell(Kind.TICK)

    def done(self, kind: Do) -> list[Action]:
        return [action for action in self.actions if action.kind is kind]

    def started(self) -> list[int]:
        return [action.worker for action in self.done(Do.START)]

    def drained(self) -> list[int]:
        return [action.worker for action in self.done(Do.DRAIN)]

    def signals(self) -> list[tuple[int, int]]:
        return [(action.worker, action.number) for action in self.done(Do.SIGNAL)]

    def reports(self) -> list[int]:
        """Ids, in order; but for the small steps of workers, which are reported at level debug."""
        ids = [action.number for action in self.done(Do.REPORT)]
        return [number for number in ids if number not in (6009, 6010, 6020, 6021, 6023, 6024)]

    def demand(self) -> list[int]:
        return [action.number for action in self.done(Do.AWAIT_DEMAND)]

    def state(self, key: int) -> State | None:
        return next((w.state for w in self.pool.workers if w.key == key), None)

    def states(self) -> dict[int, State]:
        return {worker.key: worker.state for worker in self.pool.workers}

    def useful(self, *keys: int) -> "Play":
        """These workers are ready, and have answered."""
        for key in keys:
            self.tell(Kind.READY, key)
            self.tell(Kind.FIRST_ANSWER, key)
        return self

    def serving(self) -> "Play":
        """Start the pool; every worker is ready and has answered. On demand: there is one."""
        self.tell(Kind.START)
        if not self.pool.limits.is_always_running:
            self.tell(Kind.DEMAND)
        return self.useful(*self.started())
