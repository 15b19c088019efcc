"""Events about one worker: it comes up, it is well or not, it leaves."""

from dataclasses import replace

from kernelq.pool.generations import adopt_candidate
from kernelq.pool.model import Do, Pool, State, Worker
from kernelq.pool.rapid_fail import count_loss, count_unresponsive, end_trial
from kernelq.pool.steps import (
    SIGABRT,
    SIGKILL,
    Turn,
    ask_last_words,
    drain,
    is_staying,
    is_up,
    kill,
    lower_target,
    may_orphan,
    orphan,
    put,
    remove,
)
from kernelq.units import SECOND


def become_ready(pool: Pool, turn: Turn) -> Pool:
    worker = replace(turn.worker, state=State.READY, deadline=0, ready_at=turn.now)
    pool = replace(put(pool, worker), overlap_failures=0, overlap_after=0)
    if not pool.was_ready:
        turn.do(Do.SERVING, worker.key)
        pool = replace(pool, was_ready=True)
    turn.report(6021, worker.key)
    pool = end_trial(pool, turn)
    return adopt_candidate(pool, turn) if worker.generation == pool.candidate else pool


def note_answer(pool: Pool, turn: Turn) -> Pool:
    return put(pool, replace(turn.worker, has_answered=True))


def note_refusal(pool: Pool, turn: Turn) -> Pool:
    return put(pool, replace(turn.worker, refusal=turn.event.text))


def note_unhealthy(pool: Pool, turn: Turn) -> Pool:
    turn.report(6026, turn.worker.key)
    return pool


def note_recovered(pool: Pool, turn: Turn) -> Pool:
    turn.report(6027, turn.worker.key)
    return pool


def replace_hopeless(pool: Pool, turn: Turn) -> Pool:
    if not pool.limits.is_managed:
        return pool
    turn.report(5010, turn.worker.key)
    if may_orphan(pool):
        pool = orphan(pool, turn.worker, turn)
    else:
        pool = drain(pool, turn.worker, pool.limits.graceful_ns, turn)
    return count_unresponsive(pool, turn)


def replace_overdue(pool: Pool, turn: Turn) -> Pool:
    if not pool.limits.is_managed:
        return pool
    turn.report(6028, turn.worker.key)
    leaver = replace(turn.worker, is_late=True)
    return lower_target(drain(pool, leaver, pool.limits.graceful_ns, turn))


def kill_distrusted(pool: Pool, turn: Turn) -> Pool:
    worker = turn.worker
    turn.report(5127, worker.key)
    pool = kill(pool, worker, SIGKILL, turn)
    return _count(pool, worker, turn) if is_staying(worker) else pool


def end_start(pool: Pool, turn: Turn) -> Pool:
    """The start-up time limit has passed."""
    worker = turn.worker
    seconds = pool.limits.startup_ns / SECOND
    turn.report(5012, worker.key, f"exceeded its start-up time limit ({seconds:g} s)")
    end = orphan if may_orphan(pool) else ask_last_words
    return _count(end(pool, worker, turn), worker, turn)


def end_drain(pool: Pool, turn: Turn) -> Pool:
    """The shutdown time limit has passed."""
    worker = turn.worker
    if worker.is_late and may_orphan(pool):
        turn.report(5013, worker.key, "did not finish in time")
        return orphan(pool, worker, turn)
    turn.report(5013, worker.key)
    return ask_last_words(pool, worker, turn)


def kill_now(pool: Pool, turn: Turn) -> Pool:
    return kill(pool, turn.worker, SIGKILL, turn)


def abort_without_words(pool: Pool, turn: Turn) -> Pool:
    return kill(pool, turn.worker, SIGABRT, turn)


def lose(pool: Pool, turn: Turn) -> Pool:
    """A death that nobody asked for."""
    worker = turn.worker
    turn.report(6025 if worker.is_excused else 5009, worker.key)
    return _count(remove(pool, worker), worker, turn)


def leave(pool: Pool, turn: Turn) -> Pool:
    """A death that was expected, or that has been counted when it was decided."""
    turn.report(6024, turn.worker.key)
    return remove(pool, turn.worker)


def forget_orphan(pool: Pool, turn: Turn) -> Pool:
    turn.report(6033, turn.worker.key)
    kept = tuple(worker for worker in pool.orphans if worker.key != turn.worker.key)
    return replace(pool, orphans=kept)


def _count(pool: Pool, worker: Worker, turn: Turn) -> Pool:
    if not is_up(pool):
        return pool
    if worker.is_excused:  # of the candidate, another is started
        return pool if worker.generation == pool.candidate else lower_target(pool)
    return count_loss(pool, worker, turn)
