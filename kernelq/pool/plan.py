"""The pool's plan: (pool, event, now) -> (pool, actions). Nothing here starts, signals or waits for
anything.

Rules: this file imports only stdlib types; every function is pure; what an event does to a worker
is looked up in TABLE, and a pair that is not there changes nothing (a late event about a worker
that is already on its way out). How many workers to start and which to drain follows from the state
alone, in `_settle`, after every event.

Theory of operation. A worker process is STARTING until it says READY; READY until it is told
DRAINING; what does not end in time is asked for its stacks (LAST_WORDS) and then KILLED. It leaves
the pool when it has died. A generation is one reading of the application's code. Reload starts one
worker of the next generation as a candidate: when it is READY its generation becomes the pool's,
the others follow, and each READY one lets one old worker drain. A candidate that fails leaves
everything as it was. A death is hopeless when the worker had not been READY or had not completed a
request. Rapid-fail protection counts those: at the limit the pool is tripped, starts no worker but
one try per interval, and is offline (its queue answers 503) as long as nobody serves. Other deaths
are replaced at once, with a growing back-off when they become many. Bound: at most twice as many
processes as the pool has workers; who leaves too slowly is hastened.
"""

from collections.abc import Callable
from dataclasses import replace

from kernelq.pool.model import (
    SECOND,
    Action,
    Do,
    Event,
    Kind,
    Limits,
    Phase,
    Pool,
    State,
    Worker,
)
from kernelq.pool.tally import Tally

MS = 1_000_000

LAST_WORDS_NS = SECOND  # for a worker's stacks, before it is aborted
KILL_AGAIN_NS = 5 * SECOND  # SIGKILL is repeated while a death is awaited
CRASH_WINDOW_NS = 10 * SECOND
CRASHES_FREE = 30  # crashes of useful workers within the window that cost no back-off
BACKOFF_FIRST_NS = 100 * MS
BACKOFF_MOST_NS = 30 * SECOND
CRASH_BACKOFF_MOST_NS = 5 * SECOND

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
SIGABRT, SIGKILL = 6, 9


def make_pool(limits: Limits) -> Pool:
    return Pool(limits, Tally(limits.rapid_fail_ns), Tally(CRASH_WINDOW_NS))


def step(pool: Pool, event: Event, now: int) -> tuple[Pool, list[Action]]:
    """What the pool becomes and what is to be done, in order."""
    actions: list[Action] = []
    if event.worker >= 0:
        pool = _step_worker(pool, event, now, actions)
    else:
        pool = POOL_TABLE[event.kind](pool, event, now, actions)
    return _settle(pool, now, actions), actions


def next_deadline(pool: Pool) -> int | None:
    """When a TICK is due; None: no timer runs."""
    times = [worker.deadline for worker in pool.workers if worker.deadline]
    if pool.phase is Phase.RUNNING and _missing(pool) > 0 and _room(pool) > 0:
        times.append(max(pool.start_after, pool.try_at if pool.is_tripped else 0))
    return min(times, default=None)


def find_worker(pool: Pool, key: int) -> Worker | None:
    return next((worker for worker in pool.workers if worker.key == key), None)


# Events about one worker.

_Handler = Callable[[Pool, Worker, Event, int, list[Action]], Pool]


def _step_worker(pool: Pool, event: Event, now: int, actions: list[Action]) -> Pool:
    worker = find_worker(pool, event.worker)
    if worker is None:
        return pool
    handler = TABLE.get((worker.state, event.kind))
    return pool if handler is None else handler(pool, worker, event, now, actions)


def _become_ready(
    pool: Pool, worker: Worker, event: Event, now: int, actions: list[Action]
) -> Pool:
    del event
    pool = _put(pool, replace(worker, state=State.READY, deadline=0))
    if not pool.was_ready:
        actions.append(Action(Do.SERVING, worker.key))
        pool = replace(pool, was_ready=True)
    actions.append(_log(DEBUG, "is ready", worker.key))
    if pool.is_tripped:
        pool = replace(pool, is_tripped=False, hopeless=pool.hopeless.cleared(), start_after=0)
        actions.append(
            _log(INFO, "rapid-fail protection: a worker is ready, the pool starts again")
        )
    if worker.generation == pool.candidate:
        pool = _adopt_candidate(pool, now, actions)
    return pool


def _adopt_candidate(pool: Pool, now: int, actions: list[Action]) -> Pool:
    actions.append(Action(Do.RETIRE, number=pool.generation))
    actions.append(Action(Do.RELOADED, number=1))
    pool = replace(pool, generation=pool.candidate, candidate=-1, start_after=0)
    for worker in pool.workers:
        if worker.state is State.STARTING and worker.generation != pool.generation:
            pool = _kill(pool, worker, SIGKILL, now, actions)
    return pool


def _note_answer(pool: Pool, worker: Worker, event: Event, now: int, actions: list[Action]) -> Pool:
    del event, now, actions
    return _put(pool, replace(worker, has_answered=True))


def _note_refusal(
    pool: Pool, worker: Worker, event: Event, now: int, actions: list[Action]
) -> Pool:
    del now, actions
    return _put(pool, replace(worker, refusal=event.text))


def _note_unhealthy(
    pool: Pool, worker: Worker, event: Event, now: int, actions: list[Action]
) -> Pool:
    del event, now
    actions.append(_log(WARNING, "leaves requests unstarted; they go to others", worker.key))
    return pool


def _note_recovered(
    pool: Pool, worker: Worker, event: Event, now: int, actions: list[Action]
) -> Pool:
    del event, now
    actions.append(_log(INFO, "starts its requests again", worker.key))
    return pool


def _drain_hopeless(
    pool: Pool, worker: Worker, event: Event, now: int, actions: list[Action]
) -> Pool:
    del event
    actions.append(_log(WARNING, "did not recover in time and is replaced", worker.key))
    return _drain(pool, worker, pool.limits.graceful_ns, now, actions)


def _drain_late(pool: Pool, worker: Worker, event: Event, now: int, actions: list[Action]) -> Pool:
    del event
    actions.append(_log(WARNING, "has a request beyond its time limit and is replaced", worker.key))
    return _drain(pool, worker, pool.limits.graceful_ns, now, actions)


def _kill_distrusted(
    pool: Pool, worker: Worker, event: Event, now: int, actions: list[Action]
) -> Pool:
    del event
    actions.append(_log(ERROR, "is no longer trusted: it sent malformed data", worker.key))
    pool = _kill(pool, worker, SIGKILL, now, actions)
    if worker.state in (State.STARTING, State.READY):
        pool = _count_loss(pool, worker, now, actions)
    return pool


def _kill_after_words(
    pool: Pool, worker: Worker, event: Event, now: int, actions: list[Action]
) -> Pool:
    del event
    return _kill(pool, worker, SIGKILL, now, actions)


def _lose(pool: Pool, worker: Worker, event: Event, now: int, actions: list[Action]) -> Pool:
    # A death that nobody asked for.
    del event
    pool = _remove(pool, worker)
    if pool.phase is not Phase.RUNNING or worker.is_excused:
        return pool
    return _count_loss(pool, worker, now, actions)


def _leave(pool: Pool, worker: Worker, event: Event, now: int, actions: list[Action]) -> Pool:
    # A death that was expected, or that has been counted when it was decided.
    del event, now, actions
    return _remove(pool, worker)


TABLE: dict[tuple[State, Kind], _Handler] = {
    (State.STARTING, Kind.READY): _become_ready,
    (State.STARTING, Kind.REFUSED): _note_refusal,
    (State.STARTING, Kind.DISTRUSTED): _kill_distrusted,
    (State.STARTING, Kind.DIED): _lose,
    (State.READY, Kind.FIRST_ANSWER): _note_answer,
    (State.READY, Kind.UNHEALTHY): _note_unhealthy,
    (State.READY, Kind.RECOVERED): _note_recovered,
    (State.READY, Kind.HOPELESS): _drain_hopeless,
    (State.READY, Kind.TIMEOUT): _drain_late,
    (State.READY, Kind.DISTRUSTED): _kill_distrusted,
    (State.READY, Kind.DIED): _lose,
    (State.DRAINING, Kind.DISTRUSTED): _kill_distrusted,
    (State.DRAINING, Kind.DIED): _leave,
    (State.LAST_WORDS, Kind.STACKS_DONE): _kill_after_words,
    (State.LAST_WORDS, Kind.DISTRUSTED): _kill_distrusted,
    (State.LAST_WORDS, Kind.DIED): _leave,
    (State.KILLED, Kind.DIED): _leave,
}


# Events about the pool.


def _start(pool: Pool, event: Event, now: int, actions: list[Action]) -> Pool:
    del event, now, actions
    return replace(pool, phase=Phase.RUNNING) if pool.phase is Phase.IDLE else pool


def _reload(pool: Pool, event: Event, now: int, actions: list[Action]) -> Pool:
    del event
    if pool.phase is not Phase.RUNNING:
        return pool
    if pool.candidate >= 0:
        actions.append(Action(Do.RETIRE, number=pool.candidate))
        for worker in pool.workers:
            if worker.generation == pool.candidate and worker.state is State.STARTING:
                pool = _kill(pool, worker, SIGKILL, now, actions)
    newest = pool.newest_generation + 1
    actions.append(_log(INFO, "reload: starting a worker with the application's new code"))
    return replace(pool, candidate=newest, newest_generation=newest)


def _stop(pool: Pool, event: Event, now: int, actions: list[Action]) -> Pool:
    if pool.phase in (Phase.STOPPING, Phase.STOPPED):
        return pool
    pool = replace(pool, phase=Phase.STOPPING, candidate=-1)
    for worker in pool.workers:
        if worker.state is State.STARTING:
            pool = _kill(pool, worker, SIGKILL, now, actions)
        elif worker.state is State.READY:
            pool = _drain(pool, worker, event.number, now, actions)
        elif worker.state is State.DRAINING:
            deadline = min(worker.deadline, now + event.number)
            pool = _put(pool, replace(worker, deadline=deadline))
    return pool


def _stop_now(pool: Pool, event: Event, now: int, actions: list[Action]) -> Pool:
    del event
    if pool.phase is Phase.STOPPED:
        return pool
    for worker in pool.workers:
        pool = _kill(pool, worker, SIGKILL, now, actions)
    return replace(pool, phase=Phase.STOPPING, candidate=-1)


def _tick(pool: Pool, event: Event, now: int, actions: list[Action]) -> Pool:
    del event
    for worker in pool.workers:
        if worker.deadline and now >= worker.deadline:
            pool = LATE[worker.state](pool, worker, now, actions)
    return pool


def _excuse_all(pool: Pool, event: Event, now: int, actions: list[Action]) -> Pool:
    del event, now, actions
    return replace(pool, workers=tuple(replace(w, is_excused=True) for w in pool.workers))


POOL_TABLE: dict[Kind, Callable[[Pool, Event, int, list[Action]], Pool]] = {
    Kind.START: _start,
    Kind.RELOAD: _reload,
    Kind.STOP: _stop,
    Kind.STOP_NOW: _stop_now,
    Kind.TICK: _tick,
    Kind.SPAWNER_LOST: _excuse_all,
}


# Deadlines, by the state in which they pass.


def _late_start(pool: Pool, worker: Worker, now: int, actions: list[Action]) -> Pool:
    seconds = pool.limits.startup_ns / SECOND
    actions.append(_log(ERROR, f"exceeded its start-up time limit ({seconds:g} s)", worker.key))
    pool = _ask_last_words(pool, worker, now, actions)
    return pool if worker.is_excused else _count_loss(pool, worker, now, actions)


def _late_drain(pool: Pool, worker: Worker, now: int, actions: list[Action]) -> Pool:
    actions.append(_log(WARNING, "did not finish in time; its stacks follow", worker.key))
    return _ask_last_words(pool, worker, now, actions)


def _late_words(pool: Pool, worker: Worker, now: int, actions: list[Action]) -> Pool:
    return _kill(pool, worker, SIGABRT, now, actions)


def _late_death(pool: Pool, worker: Worker, now: int, actions: list[Action]) -> Pool:
    return _kill(pool, worker, SIGKILL, now, actions)


LATE: dict[State, Callable[[Pool, Worker, int, list[Action]], Pool]] = {
    State.STARTING: _late_start,
    State.DRAINING: _late_drain,
    State.LAST_WORDS: _late_words,
    State.KILLED: _late_death,
}


# What a loss means for the pool.


def _count_loss(pool: Pool, worker: Worker, now: int, actions: list[Action]) -> Pool:
    if worker.generation == pool.candidate:
        return _fail_reload(pool, worker, actions)
    if worker.state is State.READY and worker.has_answered:
        return _count_crash(pool, now)
    if worker.refusal and not pool.was_ready:
        actions.append(Action(Do.GIVE_UP, text=worker.refusal))
        return replace(pool, phase=Phase.STOPPING)
    if worker.refusal:
        actions.append(_log(ERROR, worker.refusal, worker.key))
    return _count_hopeless(pool, now, actions)


def _fail_reload(pool: Pool, worker: Worker, actions: list[Action]) -> Pool:
    why = worker.refusal or "the worker with the new code died before it was ready"
    actions.append(_log(ERROR, f"reload failed, the old workers go on: {why}"))
    actions.append(Action(Do.RETIRE, number=pool.candidate))
    actions.append(Action(Do.RELOADED, number=0))
    return replace(pool, candidate=-1)


def _count_crash(pool: Pool, now: int) -> Pool:
    crashes = pool.crashes.add(now)
    excess = crashes.count(now) - CRASHES_FREE
    delay = _backoff(excess // 5, CRASH_BACKOFF_MOST_NS) if excess > 0 else 0
    return replace(pool, crashes=crashes, start_after=max(pool.start_after, now + delay))


def _count_hopeless(pool: Pool, now: int, actions: list[Action]) -> Pool:
    limits = pool.limits
    hopeless = pool.hopeless.add(now)
    count = hopeless.count(now)
    delay = _backoff(count - 2, BACKOFF_MOST_NS) if count > 1 else 0
    pool = replace(pool, hopeless=hopeless, start_after=max(pool.start_after, now + delay))
    if pool.is_tripped or not limits.rapid_fail_count or count < limits.rapid_fail_count:
        return pool
    seconds = limits.rapid_fail_ns / SECOND
    text = f"rapid-fail protection: {count} hopeless deaths of workers within {seconds:g} s"
    if not pool.was_ready:
        actions.append(Action(Do.GIVE_UP, text=f"{text}, and none was ever ready"))
        return replace(pool, phase=Phase.STOPPING)
    text += f"; no more starts but one try every {seconds:g} s and at reload (SIGHUP)"
    actions.append(_log(ERROR, text))
    return replace(pool, is_tripped=True, try_at=now + limits.rapid_fail_ns)


def _backoff(doublings: int, most_ns: int) -> int:
    return min(most_ns, BACKOFF_FIRST_NS << min(doublings, 16))


# What follows from the state alone.


def _settle(pool: Pool, now: int, actions: list[Action]) -> Pool:
    if pool.phase is Phase.RUNNING:
        pool = _start_missing(pool, now, actions)
        pool = _start_candidate(pool, now, actions)
        pool = _drain_surplus(pool, now, actions)
        pool = _announce(pool, actions)
    elif pool.phase is Phase.STOPPING:
        for worker in pool.workers:  # given up while others were alive
            if worker.state is State.STARTING:
                pool = _kill(pool, worker, SIGKILL, now, actions)
        if not pool.workers:
            actions.append(Action(Do.STOPPED))
            pool = replace(pool, phase=Phase.STOPPED)
    return pool


def _missing(pool: Pool) -> int:
    """How many workers the pool's own generation lacks, as far as it may start any."""
    alive = [worker for worker in pool.workers if _is_wanted(pool, worker)]
    missing = pool.limits.workers - len(alive)
    if pool.is_tripped:
        is_trying = any(worker.state is State.STARTING for worker in alive)
        missing = 0 if is_trying else min(missing, 1)
    return missing


def _is_wanted(pool: Pool, worker: Worker) -> bool:
    return worker.generation == pool.generation and worker.state in (State.STARTING, State.READY)


def _room(pool: Pool) -> int:
    return 2 * pool.limits.workers - len(pool.workers)


def _start_missing(pool: Pool, now: int, actions: list[Action]) -> Pool:
    missing = _missing(pool)
    if missing <= 0 or now < pool.start_after or (pool.is_tripped and now < pool.try_at):
        return pool
    if pool.is_tripped:
        pool = replace(pool, try_at=now + pool.limits.rapid_fail_ns)
    room = _room(pool)
    for _ in range(min(missing, room)):
        pool = _start_worker(pool, pool.generation, now, actions)
    return pool if missing <= room else _hasten(pool, missing - room, now, actions)


def _start_candidate(pool: Pool, now: int, actions: list[Action]) -> Pool:
    if pool.candidate < 0 or any(w.generation == pool.candidate for w in pool.workers):
        return pool
    if _room(pool) > 0:
        return _start_worker(pool, pool.candidate, now, actions)
    return _hasten(pool, 1, now, actions)


def _start_worker(pool: Pool, generation: int, now: int, actions: list[Action]) -> Pool:
    key = pool.next_key
    worker = Worker(key, generation, State.STARTING, now + pool.limits.startup_ns)
    actions.append(Action(Do.START, key, generation))
    return replace(pool, workers=(*pool.workers, worker), next_key=key + 1)


def _hasten(pool: Pool, count: int, now: int, actions: list[Action]) -> Pool:
    # The bound on processes is reached: who has been leaving longest leaves now.
    on_their_way = sum(w.state in (State.LAST_WORDS, State.KILLED) for w in pool.workers)
    draining = [w for w in pool.workers if w.state is State.DRAINING]
    for worker in draining[: max(0, count - on_their_way)]:
        actions.append(_log(WARNING, "leaves too slowly: its place is needed", worker.key))
        pool = _ask_last_words(pool, worker, now, actions)
    return pool


def _drain_surplus(pool: Pool, now: int, actions: list[Action]) -> Pool:
    ready = [worker for worker in pool.workers if worker.state is State.READY]
    old = [worker for worker in ready if worker.generation != pool.generation]
    surplus = len(ready) - pool.limits.workers
    for worker in old[: max(0, surplus)]:
        pool = _drain(pool, worker, pool.limits.graceful_ns, now, actions)
    return pool


def _announce(pool: Pool, actions: list[Action]) -> Pool:
    serves = any(worker.state is State.READY for worker in pool.workers)
    is_online = serves or not pool.is_tripped
    if is_online == pool.is_online:
        return pool
    actions.append(Action(Do.POOL, text="online" if is_online else "offline"))
    return replace(pool, is_online=is_online)


# Small steps.


def _put(pool: Pool, worker: Worker) -> Pool:
    return replace(pool, workers=tuple(worker if w.key == worker.key else w for w in pool.workers))


def _remove(pool: Pool, worker: Worker) -> Pool:
    return replace(pool, workers=tuple(w for w in pool.workers if w.key != worker.key))


def _drain(pool: Pool, worker: Worker, grace_ns: int, now: int, actions: list[Action]) -> Pool:
    actions.append(Action(Do.DRAIN, worker.key))
    return _put(pool, replace(worker, state=State.DRAINING, deadline=now + max(grace_ns, 1)))


def _ask_last_words(pool: Pool, worker: Worker, now: int, actions: list[Action]) -> Pool:
    actions.append(Action(Do.STACKS, worker.key))
    return _put(pool, replace(worker, state=State.LAST_WORDS, deadline=now + LAST_WORDS_NS))


def _kill(pool: Pool, worker: Worker, number: int, now: int, actions: list[Action]) -> Pool:
    actions.append(Action(Do.SIGNAL, worker.key, number))
    wait_ns = LAST_WORDS_NS if number == SIGABRT else KILL_AGAIN_NS
    return _put(pool, replace(worker, state=State.KILLED, deadline=now + wait_ns))


def _log(level: int, text: str, worker: int = -1) -> Action:
    return Action(Do.LOG, worker, level, text)
