"""Recycling: a worker is replaced although nothing is wrong with it.

Any trigger only marks a worker as due, once, and says why. What then happens follows from the
state, one worker of the pool after the other: with overlap, one more worker than wanted is started,
and as soon as one more than wanted is READY, one that is due drains (size.py). Without, the one
that is due drains, and its place is held until it is gone.
"""

from dataclasses import replace

from kernelq.pool.events import EVENTS
from kernelq.pool.generations import try_waiting
from kernelq.pool.model import Kind, Limits, Pool, State, Worker
from kernelq.pool.steps import (
    BACKOFF_MOST_NS,
    Turn,
    backoff,
    drain,
    leaving,
    put,
    ready,
    room,
    start_worker,
    staying,
)

REPORTS = {
    Kind.TICK: 5074,
    Kind.REQUESTS_LIMIT: 5075,
    Kind.SCHEDULE: 5076,
    Kind.MEMORY_LIMIT: 5077,
    Kind.RECYCLE: 5079,
    Kind.PRIVATE_MEMORY_LIMIT: 5117,
}


def make_due(pool: Pool, turn: Turn) -> Pool:
    """One READY worker has reached a limit."""
    if not pool.limits.is_managed or turn.worker.is_due:
        return pool
    return try_waiting(_mark(pool, turn.worker, turn), turn)


def make_all_due(pool: Pool, turn: Turn) -> Pool:
    """An administrator or the clock wants all of them anew."""
    if not pool.limits.is_managed:
        return pool
    for worker in ready(pool):
        if not worker.is_due:
            pool = _mark(pool, worker, turn)
    return try_waiting(pool, turn)


def _mark(pool: Pool, worker: Worker, turn: Turn) -> Pool:
    number = REPORTS[turn.event.kind]
    text = turn.event.text
    turn.report(number, worker.key, f"{EVENTS[number].text} ({text})" if text else "")
    return put(pool, replace(worker, is_due=True))


def fail_overlap(pool: Pool, worker: Worker, turn: Turn) -> Pool:
    """The replacement failed; whom it should have replaced goes on."""
    count = pool.overlap_failures + 1
    why = f": {worker.refusal}" if worker.refusal else ""
    turn.report(5093, worker.key, f"{EVENTS[5093].text}{why}")
    delay = backoff(count - 1, BACKOFF_MOST_NS)
    return replace(pool, overlap_failures=count, overlap_after=turn.now + delay)


def early(limits: Limits, key: int, amount: int) -> int:
    """A limit with this worker's jitter: up to that part of it earlier, always the same for the
    same worker and seed, so that the workers of a web garden do not all reach it at once.
    """
    word = (limits.seed * 0x9E3779B97F4A7C15 + (key + 1) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    word = ((word ^ (word >> 31)) * 0x94D049BB133111EB) & (2**64 - 1)
    part = (word >> 40) / 2**24
    return amount - int(amount * limits.jitter * part)


def time_limit(pool: Pool, worker: Worker) -> int:
    """When a READY worker has lived long enough; 0: never."""
    limits = pool.limits
    if worker.state is not State.READY or worker.is_due:
        return 0
    if not limits.recycle_ns or not limits.is_managed:
        return 0
    return worker.ready_at + early(limits, worker.key, limits.recycle_ns)


def is_complete(pool: Pool) -> bool:
    """Whether exactly as many as are wanted are READY, and nobody else is on the way."""
    if pool.is_tripped or pool.candidate >= 0:
        return False
    stay = staying(pool)
    return len(stay) == pool.target and all(w.state is State.READY for w in stay)


def held(pool: Pool) -> int:
    """Places of workers that must be gone before others take them."""
    if pool.limits.is_overlap_allowed:
        return 0
    return sum(worker.is_recycled for worker in leaving(pool))


def next_turnover(pool: Pool) -> Worker | None:
    """Who is recycled next, if it is time for anybody, back-off apart."""
    if not is_complete(pool) or held(pool):
        return None
    return next((worker for worker in ready(pool) if worker.is_due), None)


def turn_over(pool: Pool, turn: Turn) -> Pool:
    """Begin the next replacement, if it is time."""
    worker = next_turnover(pool)
    if worker is None or turn.now < max(pool.start_after, pool.overlap_after):
        return pool
    if not pool.limits.is_overlap_allowed:
        leaver = replace(worker, is_recycled=True)
        return drain(pool, leaver, pool.limits.graceful_ns, turn)
    if room(pool) > 0:
        return start_worker(pool, pool.generation, turn)
    return pool
