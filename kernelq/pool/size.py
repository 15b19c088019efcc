"""How many workers a pool has: `target` says how many it wants, and what is missing or too much
follows from that alone.

A pool that is always running wants min_processes at least and replaces its dead at once. A pool
that runs on demand wants nobody until a request waits, and whoever is lost is not wanted any more:
the next demand wants somebody again. Requests that wait although all workers are READY raise the
target by one at a time; a peak that fewer could have served lowers it.

Bounds: at most max_processes stay, and one that overlaps (a candidate, or the replacement of a
worker that is due). With those that are leaving there are at most twice max_processes; who leaves
too slowly is hastened when somebody is missing, and not for a mere candidate.
"""

from dataclasses import replace

from kernelq.pool.model import Do, Pool, State
from kernelq.pool.rapid_fail import end_trial
from kernelq.pool.recycling import held, is_complete
from kernelq.pool.steps import (
    SIGKILL,
    Turn,
    ask_last_words,
    drain,
    is_starting,
    is_staying,
    is_up,
    kill,
    put,
    ready,
    resume,
    room,
    start_worker,
    staying,
)

# Events.


def start_on_demand(pool: Pool, turn: Turn) -> Pool:
    """A request waits and nobody is READY."""
    pool = replace(pool, armed=-1)
    if pool.target:
        return pool
    turn.report(6040)
    wanted = max(pool.limits.min_processes, 1)
    return replace(pool, target=min(wanted, pool.limits.max_processes))


def grow(pool: Pool, turn: Turn) -> Pool:
    """Requests wait although somebody is READY."""
    pool = replace(pool, armed=-1)
    if not may_grow(pool):
        return pool
    target = pool.target + 1
    turn.report(6041, text=f"requests wait: {target} workers of {pool.limits.max_processes}")
    return replace(pool, target=target, grown_at=turn.now)


def shrink(pool: Pool, turn: Turn) -> Pool:
    """PEAK: one worker less, if half of what one less can do was enough."""
    limits = pool.limits
    if not _may_shrink(pool) or not is_complete(pool):
        return pool
    if turn.now - pool.grown_at < limits.shrink_after_ns:
        return pool
    if 2 * turn.event.number > (pool.target - 1) * limits.threads:
        return pool
    turn.report(6042, text=f"at most {turn.event.number} requests at a time: one worker less")
    return replace(pool, target=pool.target - 1)


def rest(pool: Pool, turn: Turn) -> Pool:
    """IDLE: what a worker without requests is for."""
    limits, worker = pool.limits, turn.worker
    if limits.is_always_running or not limits.is_managed:
        return pool
    if limits.idle_action == "suspend":
        if worker.is_suspended:
            return pool
        turn.do(Do.SUSPEND, worker.key)
        turn.report(6030, worker.key)
        return put(pool, replace(worker, is_suspended=True))
    if pool.target <= limits.min_processes:
        return pool
    turn.report(5186, worker.key)
    pool = drain(pool, worker, limits.graceful_ns, turn)
    target = min(pool.target - 1, len(staying(pool)))
    return replace(pool, target=max(target, limits.min_processes))


def wake(pool: Pool, turn: Turn) -> Pool:
    """ACTIVE."""
    if not turn.worker.is_suspended:
        return pool
    worker = resume(turn.worker, turn)
    turn.report(6031, worker.key)
    return put(pool, worker)


def ask_peak(pool: Pool, turn: Turn) -> Pool:
    """TICK: it may be time to look how much the pool was used."""
    if not pool.peak_at or turn.now < pool.peak_at:
        return pool
    turn.do(Do.PEAK)
    return replace(pool, peak_at=turn.now + pool.limits.shrink_after_ns)


# What follows from the state.


def missing(pool: Pool) -> int:
    """How many workers may be started as soon as there is room and no back-off."""
    stay = len(staying(pool))
    if not pool.is_tripped:
        return pool.target - stay - held(pool)
    if is_starting(pool) or pool.candidate >= 0 or held(pool):
        return 0
    return min(max(pool.target, 1) - stay, 1)


def outlives_trip(pool: Pool) -> bool:
    """Whether a tripped pool has all the workers that it wants: there is nothing to try."""
    if not pool.is_tripped or pool.candidate >= 0 or not ready(pool):
        return False
    return missing(pool) <= 0 and not is_starting(pool)


def shed(pool: Pool, turn: Turn) -> Pool:
    """Whoever is more than wanted leaves: who is READY only when as many as wanted are."""
    overlapping = any(worker.is_due for worker in ready(pool)) and pool.limits.is_overlap_allowed
    for worker in reversed(staying(pool)):
        if worker.state is not State.STARTING or _surplus(pool) <= overlapping:
            continue
        pool = kill(pool, worker, SIGKILL, turn)
    ready_ones = [worker for worker in staying(pool) if worker.state is State.READY]
    ready_ones.sort(key=lambda worker: (not worker.is_due, not worker.is_suspended))
    for worker in ready_ones[: max(0, len(ready_ones) - pool.target)]:
        leaver = replace(worker, is_recycled=worker.is_due)
        pool = drain(pool, leaver, pool.limits.graceful_ns, turn)
    return pool


def fill(pool: Pool, turn: Turn) -> Pool:
    """Start who is missing."""
    if outlives_trip(pool) and turn.now >= pool.try_at:
        return end_trial(pool, turn)
    count = missing(pool)
    if count <= 0 or (pool.is_tripped and turn.now < pool.try_at):
        return pool
    if count > room(pool):
        pool = hasten(pool, count - room(pool), turn)
    if turn.now < pool.start_after:
        return pool
    if pool.is_tripped and room(pool) > 0:
        turn.report(6060)
        try_at = turn.now + pool.limits.rapid_fail_ns
        pool = replace(pool, try_at=try_at, target=max(pool.target, 1))
    for _ in range(min(count, room(pool))):
        pool = start_worker(pool, pool.generation, turn)
    return pool


def start_candidate(pool: Pool, turn: Turn) -> Pool:
    if pool.candidate < 0 or any(_is_candidate(pool, worker.generation) for worker in pool.workers):
        return pool
    if sum(is_staying(worker) for worker in pool.workers) > pool.limits.max_processes:
        return pool  # another overlaps; it is READY or gone soon
    if room(pool) > 0:
        return start_worker(pool, pool.candidate, turn)
    return pool  # others serve: who is leaving may finish what it has, within its time limit


def hasten(pool: Pool, count: int, turn: Turn) -> Pool:
    """The bound on processes is reached: who has been leaving longest leaves now."""
    on_their_way = sum(w.state in (State.LAST_WORDS, State.KILLED) for w in pool.workers)
    draining = [w for w in pool.workers if w.state is State.DRAINING]
    for worker in draining[: max(0, count - on_their_way)]:
        turn.report(6029, worker.key)
        pool = ask_last_words(pool, worker, turn)
    return pool


def await_demand(pool: Pool, turn: Turn) -> Pool:
    """Tell the core what to wait for, when that has changed or was used up."""
    wanted = _demand(pool)
    if wanted == pool.armed:
        return pool
    turn.do(Do.AWAIT_DEMAND, number=wanted)
    return replace(pool, armed=wanted)


def measure(pool: Pool, turn: Turn) -> Pool:
    """Ask for the peak from time to time while there are workers that could be spared."""
    if _may_shrink(pool) == bool(pool.peak_at):
        return pool
    if pool.peak_at:
        return replace(pool, peak_at=0)
    turn.do(Do.PEAK)  # what was before does not count
    return replace(pool, peak_at=turn.now + pool.limits.shrink_after_ns)


def may_grow(pool: Pool) -> bool:
    return 0 < pool.target < pool.limits.max_processes and is_complete(pool)


def _may_shrink(pool: Pool) -> bool:
    return is_up(pool) and pool.target > max(pool.limits.min_processes, 1)


def _demand(pool: Pool) -> int:
    if not is_up(pool) or pool.is_tripped:
        return -1
    if not pool.target:
        return 0
    return max(pool.limits.grow_after_ns, 1) if may_grow(pool) else -1


def _surplus(pool: Pool) -> int:
    return len(staying(pool)) - pool.target


def _is_candidate(pool: Pool, generation: int) -> bool:
    return generation == pool.candidate
