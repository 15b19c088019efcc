"""Generations: one reading of the application's code and of the pool's settings each.

A new one is tried with one worker, the candidate, beside those that serve. When it is READY its
generation becomes the pool's and every other worker is due for recycling; when it fails, everything
stays as it was. There is nothing to try when nobody serves anyway, and no way to when workers must
not overlap: then the new generation is taken as it is.
"""

from dataclasses import replace

from kernelq.pool.model import Do, Limits, Pool, State, Worker
from kernelq.pool.steps import SIGKILL, Turn, floor, is_up, kill, put, staying


def reload(pool: Pool, turn: Turn) -> Pool:
    """RELOAD: new code; settings that are on their way come along."""
    pool = _number_generation(pool, turn)
    return _try_or_adopt(pool, 6050, turn)


def configure(pool: Pool, turn: Turn) -> Pool:
    """CONFIGURE: new settings, with or without new workers."""
    limits = turn.event.limits
    assert limits is not None
    if not turn.event.is_restart:
        turn.report(6008)
        if pool.next_limits is not None:  # of a restart that is under way: newer ones go on top
            pool = replace(pool, next_limits=limits)
        return take_limits(pool, limits)
    pool = replace(_number_generation(pool, turn), next_limits=limits)
    if _waits(limits) and is_up(pool) and staying(pool):
        turn.report(6053)
        turn.do(Do.RELOADED, number=2)
        return replace(pool, candidate=-1, waiting=pool.candidate)
    return _try_or_adopt(pool, 5080, turn)


def try_waiting(pool: Pool, turn: Turn) -> Pool:
    """A recycle comes: what waited for one is tried now."""
    if pool.waiting < 0:
        return pool
    pool = replace(pool, candidate=pool.waiting, waiting=-1)
    return _try_or_adopt(pool, 5080, turn)


def adopt_pending(pool: Pool, turn: Turn) -> Pool:
    """Nobody serves any more, or yet: what was to be tried is taken as it is."""
    if pool.waiting >= 0:
        pool = replace(pool, candidate=pool.waiting, waiting=-1)
    return adopt_candidate(pool, turn) if pool.candidate >= 0 else pool


def adopt_candidate(pool: Pool, turn: Turn) -> Pool:
    turn.do(Do.RETIRE, number=pool.generation)
    turn.do(Do.RELOADED, number=1)
    turn.report(6051)
    limits = pool.next_limits or pool.limits
    pool = replace(
        pool, generation=pool.candidate, candidate=-1, next_limits=None, start_after=0,
        overlap_after=0, overlap_failures=0, try_at=min(pool.try_at, turn.now),
    )  # fmt: skip
    for worker in pool.workers:
        if worker.generation == pool.generation:
            continue
        if worker.state is State.STARTING:
            pool = kill(pool, replace(worker, is_recycled=True), SIGKILL, turn)
        elif worker.state is State.READY:
            pool = put(pool, replace(worker, is_due=True))
    pool = take_limits(pool, limits)
    if is_up(pool) and staying(pool):
        pool = replace(pool, target=max(pool.target, 1))
    return pool


def fail_candidate(pool: Pool, worker: Worker, turn: Turn) -> Pool:
    why = worker.refusal or "the worker with the new code died before it was ready"
    turn.report(6052, worker.key, f"reload failed, the old workers go on: {why}")
    turn.do(Do.RETIRE, number=pool.candidate)
    turn.do(Do.RELOADED, number=0)
    return replace(pool, candidate=-1, next_limits=None)


def take_limits(pool: Pool, limits: Limits) -> Pool:
    """New limits are in force at once."""
    pool = replace(
        pool,
        limits=limits,
        hopeless=replace(pool.hopeless, window_ns=limits.rapid_fail_ns),
        failures=replace(pool.failures, window_ns=limits.rapid_fail_ns),
    )
    if not limits.rapid_fail_count or not limits.is_managed:
        pool = replace(pool, is_tripped=False)
    if not is_up(pool):
        return pool
    target = min(max(pool.target, floor(pool)), limits.max_processes)
    return replace(pool, target=target)


def _waits(limits: Limits) -> bool:
    return limits.waits_for_recycle and limits.is_managed


def _number_generation(pool: Pool, turn: Turn) -> Pool:
    """The next generation, as candidate; it replaces one that is on trial, or waits."""
    for overtaken in (pool.candidate, pool.waiting):
        if overtaken >= 0:
            turn.do(Do.RETIRE, number=overtaken)
    for worker in pool.workers:
        if worker.generation == pool.candidate and worker.state is State.STARTING:
            pool = kill(pool, worker, SIGKILL, turn)
    newest = pool.newest_generation + 1
    turn.do(Do.GENERATION, number=newest)
    return replace(pool, candidate=newest, newest_generation=newest, waiting=-1)


def _try_or_adopt(pool: Pool, number: int, turn: Turn) -> Pool:
    limits = pool.next_limits or pool.limits
    has_work = pool.is_tripped or pool.target > 0 or bool(staying(pool))
    if is_up(pool) and has_work and limits.is_overlap_allowed:
        turn.report(number)
        return pool
    return adopt_candidate(pool, turn)
