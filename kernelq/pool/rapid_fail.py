"""What the loss of a worker means: a back-off, rapid-fail protection, or the end of a first start.

A loss is hopeless when the worker had not been READY or had not completed a request. What was only
tried beside workers that go on (a candidate, a replacement in an overlapped recycle) is no loss of
the pool's: its failure is reported and counts for nothing here.
"""

from dataclasses import replace

from kernelq.pool.generations import fail_candidate
from kernelq.pool.model import Do, Pool, State, Worker
from kernelq.pool.recycling import fail_overlap
from kernelq.pool.steps import BACKOFF_MOST_NS, Turn, backoff, lower_target, staying
from kernelq.units import SECOND

CRASH_WINDOW_NS = 10 * SECOND
CRASHES_FREE = 30  # crashes of useful workers within the window that cost no back-off
CRASH_BACKOFF_MOST_NS = 5 * SECOND


def count_loss(pool: Pool, worker: Worker, turn: Turn) -> Pool:
    """`worker` as it was before; in `pool` it has left already, or is on its way."""
    if worker.generation == pool.candidate:
        return fail_candidate(pool, worker, turn)
    if worker.state is State.STARTING and len(staying(pool)) >= max(pool.target, 1):
        return fail_overlap(pool, worker, turn)
    pool = lower_target(pool)
    if worker.state is State.READY and worker.has_answered:
        pool = _delay_after_crash(pool, turn)
        return _count_failure(pool, turn) if pool.limits.rapid_fail_counts == "all" else pool
    if worker.refusal:
        if _may_give_up(pool):
            return replace(pool, verdict=worker.refusal)
        turn.report(6022, worker.key, worker.refusal)
    return _count_failure(_delay_after_hopeless(pool, turn), turn)


def count_unresponsive(pool: Pool, turn: Turn) -> Pool:
    """A worker that has served, and is replaced because it does so no more."""
    pool = lower_target(pool)
    return _count_failure(pool, turn) if pool.limits.rapid_fail_counts == "all" else pool


def clear_tallies(pool: Pool) -> Pool:
    return replace(
        pool,
        hopeless=pool.hopeless.cleared(),
        failures=pool.failures.cleared(),
        crashes=pool.crashes.cleared(),
        start_after=0,
        overlap_after=0,
        overlap_failures=0,
        is_tripped=False,
    )


def end_trial(pool: Pool, turn: Turn) -> Pool:
    """A worker is READY, or an interval went by and nobody is missing: no longer tripped."""
    if not pool.is_tripped:
        return pool
    turn.report(6061)
    return clear_tallies(pool)


def try_again(pool: Pool, turn: Turn) -> Pool:
    """An administrator does not want to wait for a tripped pool's next try."""
    return replace(pool, try_at=turn.now, start_after=0) if pool.is_tripped else pool


def _delay_after_crash(pool: Pool, turn: Turn) -> Pool:
    crashes = pool.crashes.add(turn.now)
    excess = crashes.count(turn.now) - CRASHES_FREE
    delay = backoff(excess // 5, CRASH_BACKOFF_MOST_NS) if excess > 0 else 0
    return replace(pool, crashes=crashes, start_after=max(pool.start_after, turn.now + delay))


def _delay_after_hopeless(pool: Pool, turn: Turn) -> Pool:
    hopeless = pool.hopeless.add(turn.now)
    count = hopeless.count(turn.now)
    delay = backoff(count - 2, BACKOFF_MOST_NS) if count > 1 else 0
    return replace(pool, hopeless=hopeless, start_after=max(pool.start_after, turn.now + delay))


def _count_failure(pool: Pool, turn: Turn) -> Pool:
    limits = pool.limits
    if not limits.is_managed or not limits.rapid_fail_count:
        return pool
    failures = pool.failures.add(turn.now)
    count = failures.count(turn.now)
    pool = replace(pool, failures=failures)
    if pool.is_tripped or count < limits.rapid_fail_count:
        return pool
    what = "hopeless deaths" if limits.rapid_fail_counts == "startup" else "failures"
    seconds = limits.rapid_fail_ns / SECOND
    text = f"rapid-fail protection: {count} {what} of workers within {seconds:g} s"
    if _may_give_up(pool):
        return replace(pool, verdict=f"{text}, and none was ever ready")
    text += f"; no more starts but one try every {seconds:g} s, and when it is reloaded or started"
    turn.report(5002, text=text)
    turn.do(Do.RUN, text="rapid_fail")
    return replace(pool, is_tripped=True, try_at=turn.now + limits.rapid_fail_ns)


def _may_give_up(pool: Pool) -> bool:
    limits = pool.limits
    return limits.gives_up and limits.is_always_running and not pool.was_ready
