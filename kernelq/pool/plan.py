"""The pool's plan: (pool, event, now) -> (pool, actions). Nothing here starts, signals or waits for
anything.

Rules: the plan imports only its own parts; every function is pure; what an event does is looked up
in TABLE (table.py), and a pair that is not there changes nothing. How many workers to start and
which to drain follows from the state alone, in `_settle`, after every event.

Theory of operation. A worker process is STARTING until it says READY; READY until it is told
DRAINING; what does not end in time is asked for its stacks (LAST_WORDS) and then KILLED. It leaves
the pool when it has died; an unhealthy one may be left to a debugger instead (ORPHANED), and is out
of the pool at once. A pool wants `target` workers (size.py); one that is due for recycling is
replaced while it serves (recycling.py); new code and settings are tried with one worker first
(generations.py); a pool whose workers fail again and again is tripped: it starts no worker but one
try per interval, and is offline as long as nobody serves (rapid_fail.py).
"""

from dataclasses import replace

from kernelq.pool.generations import adopt_pending
from kernelq.pool.model import Action, Do, Event, Kind, Limits, Phase, Pool, Worker
from kernelq.pool.rapid_fail import CRASH_WINDOW_NS
from kernelq.pool.recycling import next_turnover, time_limit, turn_over
from kernelq.pool.size import (
    await_demand,
    fill,
    measure,
    missing,
    outlives_trip,
    shed,
    start_candidate,
)
from kernelq.pool.steps import NOBODY, Turn, is_up, ready, room, staying
from kernelq.pool.table import TABLE, Place
from kernelq.pool.tally import Tally


def make_pool(limits: Limits) -> Pool:
    failures = Tally(limits.rapid_fail_ns)
    return Pool(limits, hopeless=failures, failures=failures, crashes=Tally(CRASH_WINDOW_NS))


def step(pool: Pool, event: Event, now: int) -> tuple[Pool, list[Action]]:
    """What the pool becomes and what is to be done, in order."""
    turn = Turn(event, now, [])
    if event.worker >= 0:
        worker = find_worker(pool, event.worker)
        if worker is not None:
            pool = _take(pool, worker.state, worker, turn)
    else:
        if event.kind is Kind.TICK:
            pool = _tick_workers(pool, turn)
        pool = _take(pool, pool.phase, NOBODY, turn)
    return _settle(pool, turn), turn.actions


def next_deadline(pool: Pool) -> int | None:
    """When a TICK is due; None: no timer runs."""
    times = [time for worker in pool.workers if (time := _deadline(pool, worker))]
    if is_up(pool):
        if missing(pool) > 0 and room(pool) > 0:
            times.append(max(pool.start_after, pool.try_at if pool.is_tripped else 0))
        if outlives_trip(pool):
            times.append(pool.try_at)
        if next_turnover(pool) is not None and (
            room(pool) > 0 or not pool.limits.is_overlap_allowed
        ):
            times.append(max(pool.start_after, pool.overlap_after))
        if pool.peak_at:
            times.append(pool.peak_at)
    return min(times, default=None)


def find_worker(pool: Pool, key: int) -> Worker | None:
    return next((worker for worker in (*pool.workers, *pool.orphans) if worker.key == key), None)


def _take(pool: Pool, place: Place, worker: Worker, turn: Turn, kind: Kind | None = None) -> Pool:
    row = TABLE.get((place, kind or turn.event.kind))
    if row is None:
        return pool
    turn.worker = worker
    return row.run(pool, turn)


def _tick_workers(pool: Pool, turn: Turn) -> Pool:
    for key in [worker.key for worker in pool.workers]:
        worker = find_worker(pool, key)
        if worker is None or not 0 < _deadline(pool, worker) <= turn.now:
            continue
        pool = _take(pool, worker.state, worker, turn)
    return pool


def _deadline(pool: Pool, worker: Worker) -> int:
    return worker.deadline or time_limit(pool, worker)


def _settle(pool: Pool, turn: Turn) -> Pool:
    if pool.verdict:
        pool = _take(pool, pool.phase, NOBODY, turn, Kind.UNSTARTABLE)
    if is_up(pool):
        if _waits_in_vain(pool):
            pool = adopt_pending(pool, turn)
        pool = shed(pool, turn)
        pool = fill(pool, turn)
        pool = start_candidate(pool, turn)
        pool = turn_over(pool, turn)
        if _waits_in_vain(pool):  # the last one that stayed was just told to go
            pool = fill(adopt_pending(pool, turn), turn)
        serves = Kind.SERVES if ready(pool) else Kind.SERVES_NO_MORE
        pool = _take(pool, pool.phase, NOBODY, turn, serves)
    pool = await_demand(measure(_announce(pool, turn), turn), turn)
    if not pool.workers:  # last: whoever is told STOPPED may close the pool
        pool = _take(pool, pool.phase, NOBODY, turn, Kind.EMPTY)
    return pool


def _waits_in_vain(pool: Pool) -> bool:
    # Settings that a recycle is to bring: nobody is left to be recycled.
    return pool.waiting >= 0 and not staying(pool)


def _announce(pool: Pool, turn: Turn) -> Pool:
    """Tell the core what to do with requests."""
    told = pool.told_state
    if is_up(pool):
        told = "offline" if pool.is_tripped and not ready(pool) else "online"
    elif pool.phase in (Phase.DISABLING, Phase.DISABLED):
        told = "disabled"
    elif pool.phase is Phase.DELETE_PENDING:
        told = "shutdown"  # SHUTDOWN_PENDING: the server says when
    if told == pool.told_state:
        return pool
    turn.do(Do.POOL, text=told)
    if is_up(pool):
        turn.report(6012 if told == "online" else 6011)
    return replace(pool, told_state=told)
