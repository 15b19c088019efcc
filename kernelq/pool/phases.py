"""Events about the whole pool: it is started, stopped, removed, and ends."""

from dataclasses import replace

from kernelq.pool.generations import adopt_pending
from kernelq.pool.model import Do, Kind, Phase, Pool, State
from kernelq.pool.rapid_fail import clear_tallies
from kernelq.pool.steps import SIGKILL, Turn, drain, floor, kill, kill_starting, put


def start(pool: Pool, turn: Turn) -> Pool:
    if pool.phase is Phase.UNINITIALIZED:
        turn.report(6000)
    turn.report(6001)
    pool = clear_tallies(pool)
    return replace(pool, phase=Phase.INITIALIZED, target=floor(pool), is_over_cpu=False)


def never_start(pool: Pool, turn: Turn) -> Pool:
    turn.report(6000)
    turn.report(6003)
    return replace(pool, phase=Phase.DISABLED)


def stop(pool: Pool, turn: Turn) -> Pool:
    turn.report(6002)
    pool = replace(adopt_pending(pool, turn), phase=Phase.DISABLING, target=0)
    return _let_go(pool, turn)


def keep_stopped(pool: Pool, turn: Turn) -> Pool:
    """STOP of a pool that is stopped already: for good, and by this time limit."""
    return _let_go(replace(pool, is_over_cpu=False), turn)


def end(pool: Pool, turn: Turn) -> Pool:
    """SHUTDOWN and REMOVE."""
    is_removal = turn.event.kind is Kind.REMOVE
    turn.report(6004 if is_removal else 6006)
    phase = Phase.DELETE_PENDING if is_removal else Phase.SHUTDOWN_PENDING
    pool = replace(pool, phase=phase, target=0, candidate=-1, waiting=-1)
    return _let_go(pool, turn)


def end_sooner(pool: Pool, turn: Turn) -> Pool:
    """SHUTDOWN while a removal is under way."""
    return _let_go(pool, turn)


def end_now(pool: Pool, turn: Turn) -> Pool:
    """STOP_NOW."""
    if pool.phase is not Phase.DELETE_PENDING:
        pool = replace(pool, phase=Phase.SHUTDOWN_PENDING)
    return _kill_all(replace(pool, target=0, candidate=-1, waiting=-1), turn)


def excuse_all(pool: Pool, turn: Turn) -> Pool:
    if not pool.workers:
        return pool
    turn.report(6013)
    return replace(pool, workers=tuple(replace(w, is_excused=True) for w in pool.workers))


def hold_cpu(pool: Pool, turn: Turn) -> Pool:
    """CPU_LIMIT."""
    limits = pool.limits
    if not limits.is_managed or pool.is_throttled:
        return pool
    used = f": {turn.event.text}" if turn.event.text else ""
    turn.report(5025, text=f"the pool used more processor time than it may{used}")
    if limits.cpu_action == "throttle":
        turn.do(Do.THROTTLE, number=1)
        return replace(pool, is_throttled=True)
    if limits.cpu_action != "kill":
        return pool
    pool = adopt_pending(pool, turn)
    pool = replace(pool, phase=Phase.DISABLING, is_over_cpu=True, target=0)
    return _kill_all(pool, turn)


def release_cpu(pool: Pool, turn: Turn) -> Pool:
    """CPU_INTERVAL."""
    if pool.is_throttled:
        turn.report(6070)
        turn.do(Do.THROTTLE, number=0)
    pool = replace(pool, is_throttled=False)
    if not pool.is_over_cpu:
        return pool
    turn.report(6070)
    return start(pool, turn)


def give_up(pool: Pool, turn: Turn) -> Pool:
    """UNSTARTABLE."""
    turn.report(5059, text=pool.verdict)
    turn.do(Do.GIVE_UP, text=pool.verdict)
    pool = replace(pool, phase=Phase.SHUTDOWN_PENDING, target=0, candidate=-1, waiting=-1)
    return kill_starting(pool, turn)


def serve(pool: Pool, turn: Turn) -> Pool:
    turn.report(6009)
    return replace(pool, phase=Phase.RUNNING)


def serve_no_more(pool: Pool, turn: Turn) -> Pool:
    turn.report(6010)
    return replace(pool, phase=Phase.INITIALIZED)


def be_disabled(pool: Pool, turn: Turn) -> Pool:
    turn.report(6003)
    return replace(pool, phase=Phase.DISABLED)


def be_gone(pool: Pool, turn: Turn) -> Pool:
    turn.report(6005 if pool.phase is Phase.DELETE_PENDING else 6007)
    turn.do(Do.STOPPED)
    return replace(pool, phase=Phase.GONE)


def _let_go(pool: Pool, turn: Turn) -> Pool:
    grace_ns = turn.event.number
    for worker in pool.workers:
        if worker.state is State.STARTING:
            pool = kill(pool, worker, SIGKILL, turn)
        elif worker.state is State.READY:
            pool = drain(pool, worker, grace_ns, turn)
        elif worker.state is State.DRAINING:
            deadline = min(worker.deadline, turn.now + grace_ns)
            pool = put(pool, replace(worker, deadline=deadline))
    return pool


def _kill_all(pool: Pool, turn: Turn) -> Pool:
    for worker in pool.workers:
        pool = kill(pool, worker, SIGKILL, turn)
    return pool
